"""The log records that operators read, rate-limited."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..events import BrokerState, Event, Outcome, Stats, Target
from ..messages.wording import counted
from .broker import Connection
from .entries import (
    ABANDONED,
    ENDED,
    EXPIRED,
    LATE,
    NEVER_PUBLISHED,
    NOT_COMMITTED,
    OVERFLOW,
    PURGED,
    Notice,
    NoticeKind,
)
from .records import Kind, log_record
from .store import QuarantinedFile, StoreProblem

#: Seconds between two log records about the same problem.
INTERVAL = 60.0
#: How many distinct problems are tracked for that; more of them share a record.
_MOST_PROBLEMS = 1000
#: How many ids of events a record names at most.
_MOST_IDS = 10
_OTHERS = Target("", "other queues")


class Problem(NamedTuple):
    """What records are about that are not written more than once a minute."""

    kind: Kind
    target: Target
    #: What the reasons have in common. Their texts may differ for each event.
    cause: str = ""


class _Occurrences(NamedTuple):
    """How often a problem has occurred."""

    #: An event that is refused repeatedly counts each time.
    number: int
    #: The ids of the first events.
    ids: tuple[str, ...]
    #: Of the latest one.
    reason: str = ""
    #: How often the latest event was sent; ``None``: that does not matter.
    attempt: int | None = None

    def followed_by(self, later: _Occurrences) -> _Occurrences:
        """These and *later* ones, as one value."""
        ids = tuple(dict.fromkeys(self.ids + later.ids))[:_MOST_IDS]
        return later._replace(number=self.number + later.number, ids=ids)


class _Suppressed(NamedTuple):
    """Occurrences of a problem since it was last logged."""

    #: When it was last logged.
    last: float
    since: _Occurrences | None = None


class ThrottledLog:
    """Writes the log: rate-limited, with counts, never with a payload.

    Problems are compared by kind and place, since their texts may contain a different
    name or number each time.

    State is updated before a record is logged, and no lock is held while logging: a
    logging handler may enqueue events or raise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Reentrant, since a destructor may log, or drop an event, at any moment.
        self._lock = threading.RLock()
        self._suppressed: dict[Problem, _Suppressed] = {}
        self._unavailable_since: float | None = None
        self._next_line = float("-inf")
        #: By kind: when another line about it may be written.
        self._next_lines: dict[str, float] = {}
        #: The last connection that was logged.
        self._connection = Connection(0, "")

    def broker(self, stats: Stats, connection: Connection | None = None) -> None:
        """Log a change of the broker's state. Only the flusher calls this.

        :param connection: the latest one; ``None``: there was none.
        """
        now = self._clock()
        self._connected(connection or self._connection)
        if stats.broker.is_trouble:
            self._unavailable(stats, now)
        elif stats.broker is BrokerState.READY:
            self._available(stats, now)
            if stats.broker_error:
                self._reachable(stats.broker_error)

    def _reachable(self, problem: str) -> None:
        values = {"reason": problem, "broker": self._connection.node}
        self._log_problem("broker", Kind.BROKER_PROBLEM, values)

    def _connected(self, connection: Connection) -> None:
        before, self._connection = self._connection, connection
        if before == connection:
            return
        kind = Kind.BROKER_RECONNECTED if before.number else Kind.BROKER_CONNECTED
        log_record(kind, broker=connection.node, attempt=connection.number)

    def _unavailable(self, stats: Stats, now: float) -> None:
        first = self._unavailable_since is None
        # A slow broker may stall and recover many times a minute.
        fresh = first and stats.broker is not BrokerState.STALLED
        if now < self._next_line and not fresh:
            return
        self._next_line = now + INTERVAL
        since = now if self._unavailable_since is None else self._unavailable_since
        self._unavailable_since = since
        log_record(
            Kind.BROKER_UNAVAILABLE if first else Kind.BROKER_STILL_UNAVAILABLE,
            state=str(stats.broker),
            seconds=int(now - since),
            reason=stats.broker_error or "it has confirmed nothing in time",
            **self._backlog(stats),
        )

    def _available(self, stats: Stats, now: float) -> None:
        if self._unavailable_since is None:
            return
        since, self._unavailable_since = self._unavailable_since, None
        seconds = int(now - since)
        log_record(Kind.BROKER_AVAILABLE, seconds=seconds, **self._backlog(stats))

    def _backlog(self, stats: Stats) -> dict[str, str | int]:
        return {
            "backlog": _backlog(stats),
            "count": stats.retained,
            "broker": self._connection.node,
        }

    def no_threads(self, error: Exception) -> None:
        """Log that the library's threads can't be started."""
        self._log_problem("threads", Kind.NO_THREAD, {"reason": str(error)})

    def stores(self, problems: Iterable[StoreProblem], unspooled: int) -> None:
        """Log problems with the disk or the database. Only the flusher calls this.

        :param unspooled: how many events are only in memory because of the spool's.
        """
        of_spool = Kind.SPOOL_PROBLEM_UNSPOOLED if unspooled else Kind.SPOOL_PROBLEM
        for problem in problems:
            kind = Kind.OUTBOX_PROBLEM if problem.store == "outbox" else of_spool
            values = {"reason": problem.text, **_counted(unspooled)}
            interval = float("inf") if problem.once else INTERVAL
            self._log_problem(
                f"{problem.store}: {problem.kind}", kind, values, interval
            )

    def quarantined(self, file: QuarantinedFile) -> None:
        """Log that a damaged spool file was quarantined."""
        log_record(
            Kind.SPOOL_QUARANTINED,
            path=str(file.path),
            reason=file.reason,
            **_counted(file.rescued),
        )

    def left(self, numbers: Mapping[str, int]) -> None:
        """Log, at shutdown, how many events stay in the stores that outlive it."""
        for store, kind in ("spool", Kind.SPOOL_LEFT), ("outbox", Kind.OUTBOX_LEFT):
            if number := numbers.get(store, 0):
                log_record(kind, **_counted(number))

    def enqueued_late(self, event: Event) -> None:
        """Log that *event* was enqueued after the last flush."""
        problem = Problem(Kind.ENQUEUED_LATE, event.target)
        self._note(problem, _Occurrences(1, (event.id,)))

    def delayed_in_memory(self) -> None:
        """Log, once, that delayed events end with this process."""
        self._log_problem("delayed", Kind.DELAYED_IN_MEMORY, {}, float("inf"))

    def _log_problem(
        self,
        name: str,
        kind: Kind,
        values: Mapping[str, str | int],
        interval: float = INTERVAL,
    ) -> None:
        """Log a problem, unless one of its *name* was logged within the *interval*."""
        now = self._clock()
        if now >= self._next_lines.get(name, now):
            self._next_lines[name] = now + interval
            log_record(kind, **values)

    def notices(self, notices: Iterable[Notice]) -> None:
        """Log losses, refusals and dead letters."""
        found: dict[Problem, list[Notice]] = {}
        for item in notices:
            problem = _problem_of(item)
            if problem is not None:
                found.setdefault(problem, []).append(item)
        for problem, these in found.items():
            self._note(problem, _occurrences(these))

    def unpublished(self, events: Iterable[Event], reason: str) -> None:
        """Log that *events* stay with their thread, because of *reason*."""
        found: dict[Target, list[str]] = {}
        for event in events:
            found.setdefault(event.target, []).append(event.id)
        for target, ids in found.items():
            problem = Problem(Kind.LEFT_UNPUBLISHED, target, reason)
            self._note(problem, _Occurrences(len(ids), (*ids[:_MOST_IDS],), reason))

    def log_suppressed(self, *, at_last: bool = False) -> None:
        """Log the counts suppressed for a minute; with *at_last*, all of them."""
        latest = float("inf") if at_last else self._clock() - INTERVAL
        with self._lock:
            due = {p: s for p, s in self._suppressed.items() if s.last <= latest}
            for problem in due:
                del self._suppressed[problem]
        for problem, suppressed in due.items():
            if suppressed.since is not None:
                self._note(problem, suppressed.since)

    def _note(self, problem: Problem, these: _Occurrences) -> None:
        now = self._clock()
        with self._lock:
            is_new = problem not in self._suppressed
            if is_new and len(self._suppressed) >= _MOST_PROBLEMS:
                # Queues may be named after users or hosts.
                problem = problem._replace(target=_OTHERS)
            before = self._suppressed.get(problem)
            if before is not None:
                since = before.since.followed_by(these) if before.since else these
                self._suppressed[problem] = _Suppressed(before.last, since)
                return
            self._suppressed[problem] = _Suppressed(now)
        _log_occurrences(problem, these)


def _occurrences(notices: Sequence[Notice]) -> _Occurrences:
    ids = tuple(item.event.id for item in notices[:_MOST_IDS])
    last = notices[-1]
    return _Occurrences(len(notices), ids, last.reason, last.attempt)


def _log_occurrences(problem: Problem, these: _Occurrences) -> None:
    log_record(
        problem.kind,
        queue=str(problem.target),
        ids=" ".join(these.ids),
        reason=these.reason,
        attempt="" if these.attempt is None else these.attempt,
        attempts=counted(these.number, "publish attempt"),
        **_counted(these.number),
    )


def _counted(number: int) -> dict[str, str | int]:
    return {"count": number, "events": counted(number, "event")}


def _backlog(stats: Stats) -> str:
    counts = (
        f"{counted(stats.retained, 'event')} retained, {stats.in_flight} in flight,"
        f" {stats.dead} dead"
    )
    if stats.dropped:
        counts += f"; {stats.dropped} dropped so far"
    return counts + "."


def _problem_of(notice: Notice) -> Problem | None:
    """The problem that *notice* reports; ``None``: it needs no record of its own."""
    kind = _KINDS.get((notice.kind, notice.outcome or notice.reason))
    if notice.kind is NoticeKind.DEAD:
        outcome = "" if notice.outcome is None else notice.outcome.value
        return Problem(Kind.DEAD, notice.event.target, outcome)
    return None if kind is None else Problem(kind, notice.event.target)


#: By the outcome, or the reason of what was not sent.
_KINDS: Mapping[tuple[NoticeKind, str], Kind] = {
    (NoticeKind.FAILED, Outcome.NACKED): Kind.REFUSED_NACKED,
    (NoticeKind.FAILED, Outcome.RETURNED): Kind.REFUSED_RETURNED,
    (NoticeKind.DROPPED, OVERFLOW): Kind.DROPPED_OVERFLOW,
    (NoticeKind.DROPPED, EXPIRED): Kind.DROPPED_EXPIRED,
    (NoticeKind.DROPPED, PURGED): Kind.DROPPED_PURGED,
    (NoticeKind.DROPPED, ENDED): Kind.DROPPED_AT_END,
    (NoticeKind.DROPPED, LATE): Kind.DROPPED_LATE,
    (NoticeKind.DISCARDED, ABANDONED): Kind.DISCARDED_ABANDONED,
    (NoticeKind.DISCARDED, NEVER_PUBLISHED): Kind.DISCARDED_UNPUBLISHED,
    (NoticeKind.DISCARDED, NOT_COMMITTED): Kind.DISCARDED_UNCOMMITTED,
}
