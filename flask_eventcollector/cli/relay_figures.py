"""What a relay does in figures, for people and for machines."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..backlog.outbox import OutboxRows
from ..delivery.periodic_worker import TICK, PeriodicWorker
from ..events import Stats
from ..stores.spool.admin.draining import why_left
from ..stores.spool.admin.reading import Unreadable
from . import formatting

if TYPE_CHECKING:
    from ..stores.outbox.admin import Counts

#: How many times as long as a count of the rows itself the pause between two counts
#: takes at least: a count reads all of them.
_COUNT_SHARE = 20
#: Seconds between two lines.
_LINE_EVERY, _JSON_EVERY = 0.5, 10.0


class Figures(NamedTuple):
    """What a relay does, and what waits."""

    #: ``active``, ``standby``, or ``ended``.
    role: str
    stats: Stats
    #: The rows; ``None``: not counted yet.
    counts: Counts | None
    #: Why they could not be counted last.
    failure: Unreadable | None

    @property
    def sent(self) -> int:
        """How many events the broker has taken."""
        return self.stats.confirmed + self.stats.unrouted

    @property
    def problem(self) -> str:
        """Why events wait; ``""``: there is no problem."""
        if self.failure is not None:
            return str(self.failure)
        stats = self.stats
        is_down = stats.broker.is_trouble or stats.outbox_error or stats.problems
        return why_left(stats) if is_down else ""

    @property
    def oldest_age(self) -> float | None:
        """Seconds since the oldest event that waits was enqueued."""
        if self.counts is None or self.counts.oldest is None:
            return None
        return formatting.age_of(self.counts.oldest)


class Counting:
    """Counts the rows again and again, in a thread, since the database may block.

    :param newest: only those with this number at most.
    :param pause: returns the seconds between two counts at least; infinite: nobody
        needs them now.
    """

    def __init__(
        self, rows: OutboxRows, newest: int | None, pause: Callable[[], float]
    ) -> None:
        self._rows = rows
        self._newest = newest
        self._pause = pause
        self._began, self._took = 0.0, 0.0
        self.latest: tuple[Counts | None, Unreadable | None] = (None, None)
        self._worker = PeriodicWorker(
            self._run_once, lambda: None, "eventcollector-count"
        )

    def start(self) -> None:
        """Start to count."""
        self._worker.start()

    def stop(self) -> None:
        """Count no more; waits for a second at most."""
        self._worker.stop(TICK)

    def _run_once(self) -> float:
        due = self._began + max(self._pause(), _COUNT_SHARE * self._took)
        if (now := time.monotonic()) < due:
            return due - now
        self._began = now
        try:
            self.latest = (self._rows.counts(self._newest), None)
        except Unreadable as error:
            self.latest = (self.latest[0], error)
        self._took = time.monotonic() - now
        return 0.0


class _Rate:
    """How many events a second are confirmed."""

    def __init__(self) -> None:
        self._at, self._confirmed = time.monotonic(), 0

    def take(self, confirmed: int) -> float:
        """The rate since the last call."""
        now = time.monotonic()
        rate = (confirmed - self._confirmed) / max(1e-6, now - self._at)
        self._at, self._confirmed = now, confirmed
        return rate


class Terminal:
    """One line that changes."""

    def __init__(self) -> None:
        self._next = 0.0
        self._rate = _Rate()

    def show(self, figures: Figures) -> None:
        """Show the *figures*, if the line is old."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LINE_EVERY
            click.echo(f"\r{self._line(figures)}\033[K", err=True, nl=False)

    def end(self, figures: Figures) -> None:
        """Show the last *figures*."""
        click.echo(f"\r{self._line(figures)}\033[K", err=True)

    def _line(self, figures: Figures) -> str:
        counts = figures.counts
        parts = [
            figures.role,
            f"{self._rate.take(figures.sent):.0f}/s",
            f"{figures.sent} sent",
        ]
        if counts is not None:
            oldest = formatting.age(figures.oldest_age)
            parts += [f"{counts.waiting} waiting", f"oldest {oldest}"]
            parts += [f"{counts.dead} dead"] if counts.dead else []
        if figures.problem:
            parts.append(formatting.printable(figures.problem))
        # A line that is longer than the terminal could not be replaced.
        return "  ".join(parts)[: shutil.get_terminal_size().columns - 1]


class Lines:
    """One line of JSON now and then."""

    def __init__(self) -> None:
        self._next = 0.0
        self._role = ""
        self._rate = _Rate()

    def show(self, figures: Figures) -> None:
        """Write the *figures*, if the last line is old, or the role is another one."""
        now = time.monotonic()
        if figures.counts is None and figures.failure is None:
            return
        if now >= self._next or figures.role != self._role:
            self.end(figures)

    def end(self, figures: Figures) -> None:
        """Write the last *figures*."""
        self._next, self._role = time.monotonic() + _JSON_EVERY, figures.role
        click.echo(json.dumps(self._as_dict(figures)))

    def _as_dict(self, figures: Figures) -> dict[str, Any]:
        stats, counts, age = figures.stats, figures.counts, figures.oldest_age
        return {
            "time": round(time.time(), 3),
            "role": figures.role,
            "confirmed": stats.confirmed,
            "unrouted": stats.unrouted,
            "rate": round(self._rate.take(figures.sent), 1),
            "in_flight": stats.in_flight,
            "lost_leases": stats.lost_leases,
            "waiting": counts and counts.waiting,
            "dead": counts and counts.dead,
            "oldest_age": None if age is None else round(age, 3),
            "broker": stats.broker.value,
            "problem": figures.problem,
        }


class Silence:
    """Nothing: a service has its log."""

    def show(self, figures: Figures) -> None:
        """Show nothing."""

    def end(self, figures: Figures) -> None:
        """Show nothing."""
