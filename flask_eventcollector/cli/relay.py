"""The command ``flask events relay``."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click
from flask.cli import with_appcontext

from ..config.settings import Metrics
from ..delivery.records import Kind, log_record
from ..delivery.signal import Signal
from ..errors import ConfigurationError
from ..monitoring.outbox import OutboxFigures
from ..stores.spool.admin.reading import Unreadable
from . import formatting, options
from .answering import Address, Answer, answering
from .context import app_state, check_broker, outbox_rows
from .exit_codes import Exit, Failure, end
from .health import HealthFile, health_answer
from .relay_figures import Counting, Figures, Lines, Silence, Terminal
from .values import address

if TYPE_CHECKING:
    from ..stores.outbox.admin import Counts

_Output: TypeAlias = Lines | Terminal | Silence

#: Seconds between two looks at what the relay does.
_TICK = 0.1
#: Seconds for which a thread may compute while others wait for the interpreter. With
#: Python's 5 ms, the thread that reads confirms would wait for as long as a confirm
#: takes, at each of its calls of the system, while another one decodes rows.
#: https://docs.python.org/3/library/sys.html#sys.setswitchinterval
_SWITCH_INTERVAL = 0.0005
#: Seconds without an answer of the database after which a relay is unhealthy, unless
#: its lease is longer.
_SILENT_FOR = 10.0
#: Seconds between two counts of the rows at least, if somebody looks, and if only the
#: metrics need them.
_COUNT_EVERY, _COUNT_FOR_METRICS = 0.2, 5.0
#: What rows may wait for.
_ROWS = ("free", "held", "delayed", "dead")


@click.command("relay")
@click.option("--once", is_flag=True, help="End once what waits now is sent.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 1e6),
    default=60.0,
    show_default=True,
    help="With --once: the longest time without progress, in seconds.",
)
@click.option(
    "--health-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write this file once a second while the database answers; remove it at the"
    " end.",
)
@click.option(
    "--health-port",
    metavar="[HOST:]PORT",
    callback=address,
    help="Answer HTTP requests with 200 while the database answers, else with 503."
    " Without HOST, only on this machine.",
)
@click.option(
    "--metrics-port",
    metavar="[HOST:]PORT",
    callback=address,
    help="Answer HTTP requests with this process's metrics for Prometheus. Without"
    " HOST, only on this machine.",
)
@options.json
@with_appcontext
def relay(
    once: bool,
    timeout: float,
    health_file: Path | None,
    health_port: Address | None,
    metrics_port: Address | None,
    for_machines: bool,
) -> None:
    """Send the events of the outbox, as a process of its own.

    With EVENTCOLLECTOR_OUTBOX_RELAY = "external", the workers only write the events,
    and this sends them. Run several: one is active, the others stand by, and one of
    them takes over when it ends, or when its lease runs out. With "own", it sends what
    nobody holds: what ended workers have left.

    Runs until SIGTERM or SIGINT. Then it waits for the confirms of what it has sent,
    gives the rest back, and exits with 0. On a terminal, shows the rate and what waits.
    With --json, writes one object per line: every ten seconds, at a change of its role,
    and at the end.

    With --once, exits with 0 if all that waited is sent, by this or another relay, and
    with 3 if events are still waiting or dead.
    """
    show = _output(for_machines)
    running = _Relay(once, is_watched=not isinstance(show, Silence))
    with ExitStack() as stack:
        stop = stack.enter_context(_stopped_by_signals())
        stack.enter_context(_taking_short_turns())
        running.tell_health(stack, health_file, health_port)
        stack.enter_context(running.telling_metrics(metrics_port))
        stack.enter_context(running.started())
        running.run(stop, show, timeout)
    figures = running.figures()._replace(role="ended")
    show.end(figures)
    if once:
        _finish(running.left(), figures)


def _output(for_machines: bool) -> _Output:
    if for_machines:
        return Lines()
    return Terminal() if sys.stderr.isatty() else Silence()


def _finish(left: Counts, figures: Figures) -> None:
    """Say what was not sent, and exit with 3, if anything was not."""
    if not (left.waiting or left.dead):
        return
    counts = f"{formatting.events(left.waiting)} waiting, {left.dead} dead"
    why = f": {formatting.printable(figures.problem)}" if figures.problem else ""
    click.echo(f"Not sent: {counts}{why}", err=True)
    end(Exit.WAITS)


@contextmanager
def _stopped_by_signals() -> Iterator[Signal]:
    """A signal that SIGTERM and SIGINT set; the second one ends the process."""
    stop = Signal()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def on_signal(number: int, frame: object) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        stop.set()

    for number in numbers:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _taking_short_turns() -> Iterator[None]:
    """Let the threads take shorter turns: this process does nothing else."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class _Progress:
    """Notices that nothing is sent any more."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._at = time.monotonic()
        self._last: object = None

    def has_stopped(self, figures: Figures) -> bool:
        """Whether nothing has changed for too long."""
        waiting = figures.counts and figures.counts.waiting
        now, state = time.monotonic(), (figures.sent, waiting)
        if state != self._last:
            self._at, self._last = now, state
        return now - self._at >= self._patience


class _Relay:
    """The relay of the current app, in this process.

    :param is_watched: whether somebody looks at the figures.
    :raises Failure: it can't be one.
    """

    def __init__(self, once: bool, *, is_watched: bool) -> None:
        state, self._rows = app_state(), outbox_rows()
        check_broker(state)
        if not state.has_outbox:
            raise Failure(
                "Under TESTING, a commit publishes its events and writes no rows: set"
                " EVENTCOLLECTOR_TESTING_BROKER to True to use the outbox"
            )
        name = f"{socket.gethostname()}, process {os.getpid()}"
        self._config = state.config
        try:
            self._delivery, self._store = state.new_relay(
                self._rows.bound, name, self._look
            )
            self._store.open(self._rows.engine())
            # In this thread; others use it later.
            self._rows.open()
            self._newest = self._rows.newest() if once else None
        except (ConfigurationError, Unreadable) as error:
            raise Failure(str(error)) from error
        self._counting = Counting(self._rows, self._newest, self._pause)
        self._is_watched = once or is_watched
        self._health: HealthFile | None = None
        self._is_active: bool | None = None

    # Health.

    def tell_health(
        self, stack: ExitStack, path: Path | None, address: Address | None
    ) -> None:
        """Tell others that the relay works, until *stack* is closed."""
        if path is not None:
            self._health = HealthFile(path)
            stack.callback(self._health.remove)
        stack.enter_context(
            answering(address, lambda: health_answer(self._word()), "--health-port")
        )

    def _word(self) -> str:
        """The relay's role; ``""``: the database does not answer."""
        patience = max(_SILENT_FOR, self._config.outbox_lease)
        silent_for = time.monotonic() - self._store.answered_at
        return self._role() if silent_for < patience else ""

    def _role(self) -> str:
        return "active" if self._store.is_active else "standby"

    # Metrics.

    @contextmanager
    def telling_metrics(self, address: Address | None) -> Iterator[None]:
        """Let Prometheus ask for the metrics during the block.

        :raises Failure: there are none, or the port can't be used.
        """
        if address is not None and Metrics.PROMETHEUS not in self._config.metrics:
            raise Failure(
                "--metrics-port has nothing to answer: set EVENTCOLLECTOR_METRICS to"
                " 'prometheus'"
            )
        with answering(address, _metrics, "--metrics-port"):
            yield

    def _look(self) -> OutboxFigures | None:
        """What the metrics tell of all rows; ``None``: another relay does."""
        if not self._store.is_active:
            return None
        figures = self.figures()
        counts = figures.counts
        rows = {} if counts is None else {f: getattr(counts, f) for f in _ROWS}
        return OutboxFigures(rows, figures.oldest_age or 0.0)

    def _pause(self) -> float:
        """Seconds between two counts of the rows at least."""
        if self._is_watched:
            return _COUNT_EVERY
        is_needed = self._config.metrics and self._store.is_active
        return _COUNT_FOR_METRICS if is_needed else math.inf

    # The run.

    @contextmanager
    def started(self) -> Iterator[None]:
        """Send during the block; then wait for confirms, and give the rest back."""
        try:
            self._delivery.start()
            self._counting.start()
            yield
        finally:
            self._store.end()
            self._delivery.close(self._config.shutdown_timeout, reconnect=False)
            self._counting.stop()

    def run(self, stop: Signal, show: _Output, timeout: float) -> None:
        """Run until *stop*, or with ``--once`` until there is nothing more to do."""
        progress = _Progress(timeout)
        while not stop.wait(_TICK):
            # While the broker is down, try about once a second.
            self._delivery.note_use()
            self._tell_role()
            figures = self.figures()
            show.show(figures)
            if self._newest is not None and (
                self._is_done(figures) or progress.has_stopped(figures)
            ):
                return

    def _tell_role(self) -> None:
        is_active = self._store.is_active
        # At first, it is not known.
        if is_active is not self._is_active and self._store.has_looked:
            self._is_active = is_active
            kind = Kind.RELAY_ACTIVE if is_active else Kind.RELAY_STANDBY
            log_record(kind, app=self._rows.app)
        if self._health is not None:
            self._health.write(self._word())

    def _is_done(self, figures: Figures) -> bool:
        """Whether nothing is left, or only what the broker has refused."""
        counts, stats = figures.counts, figures.stats
        if counts is None or not counts.waiting:
            return counts is not None
        is_all_here = not counts.free and counts.held <= stats.retained
        return is_all_here and self._delivery.is_at_rest()

    def figures(self) -> Figures:
        """What the relay does, and what waits."""
        return Figures(self._role(), self._delivery.stats(), *self._counting.latest)

    def left(self) -> Counts:
        """What waits now, of what waited at the beginning.

        :raises Failure: the database does not say.
        """
        try:
            return self._rows.counts(self._newest)
        except Unreadable as error:
            raise Failure(f"Can't read {error}", unreadable=[error]) from error


def _metrics() -> Answer:
    # Only those who use it have the package.
    from ..monitoring.prometheus import exposition

    body, content_type = exposition()
    return Answer(body, content_type=content_type)
