"""The log records that operators read, rate-limited."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from ..events import BrokerState, Event, Outcome, Stats, Target
from ..messages.wording import counted
from .entries import ABANDONED, NEVER_PUBLISHED, Notice, NoticeKind
from .store import QuarantinedFile, StoreProblem

logger = logging.getLogger("flask_eventcollector")

#: Seconds between two log records about the same problem.
INTERVAL = 60.0
#: How many distinct problems are tracked for that; more of them share a record.
_MOST_PROBLEMS = 1000
_OTHERS = Target("", "other queues")


_CURE = (
    "; the thread's next publish() sends them. Use 'with events.auto_publish():' around"
    " each job, or set EVENTCOLLECTOR_AT_CONTEXT_END."
)


class Problem(NamedTuple):
    """The subject of a log record, without the count and the text of the reason."""

    level: int
    #: How the record begins, which operators search for.
    action: str
    target: Target
    #: What the reasons have in common. Their texts may differ for each event.
    kind: str
    #: What is counted. An event that is refused repeatedly counts each time.
    noun: str = "event"
    suffix: str = "."


class _Suppressed(NamedTuple):
    """Occurrences of a problem since it was last logged."""

    #: When it was last logged.
    last: float
    #: How often it has occurred since, and the latest reason.
    number: int
    reason: str


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

    def broker(self, stats: Stats) -> None:
        """Log a change of the broker's state. Only the flusher calls this."""
        now = self._clock()
        if stats.broker.is_trouble:
            self._unavailable(stats, now)
        elif stats.broker is BrokerState.READY:
            self._available(stats, now)
            self._log_problem("broker", "Broker problem: %s", stats.broker_error)

    def _unavailable(self, stats: Stats, now: float) -> None:
        first = self._unavailable_since is None
        # A slow broker may stall and recover many times a minute.
        fresh = first and stats.broker is not BrokerState.STALLED
        if now < self._next_line and not fresh:
            return
        self._next_line = now + INTERVAL
        since = now if self._unavailable_since is None else self._unavailable_since
        self._unavailable_since = since
        error = stats.broker_error or "no reason given"
        if first:
            line = "Broker unavailable (%s): %s. %s"
            _log(logging.WARNING, line, stats.broker, error, _backlog(stats))
            return
        line = "Broker still unavailable (%s) after %d s: %s. %s"
        _log(logging.WARNING, line, stats.broker, now - since, error, _backlog(stats))

    def _available(self, stats: Stats, now: float) -> None:
        if self._unavailable_since is None:
            return
        since, self._unavailable_since = self._unavailable_since, None
        line = "Broker available again after %d s. %s"
        _log(logging.WARNING, line, now - since, _backlog(stats))

    def no_threads(self, error: Exception) -> None:
        """Log that the library's threads can't be started."""
        line = "No thread could be started: %s. Events wait until one can."
        self._log_problem("threads", line, str(error))

    def spool(self, problems: Iterable[StoreProblem], unspooled: int) -> None:
        """Log problems with the disk. Only the flusher calls this.

        :param unspooled: how many events are only in memory because of them.
        """
        line = "Spool problem: %s"
        if unspooled:
            line += f". {counted(unspooled, 'event')} in memory only."
        for problem in problems:
            interval = float("inf") if problem.once else INTERVAL
            self._log_problem(f"spool: {problem.kind}", line, problem.text, interval)

    def quarantined(self, file: QuarantinedFile) -> None:
        """Log that a damaged spool file was quarantined."""
        line = "Quarantined spool file %s: %s. %s recovered."
        rescued = counted(file.rescued, "event")
        _log(logging.ERROR, line, file.path, file.reason, rescued)

    def left(self, number: int) -> None:
        """Log, at shutdown, how many events stay on disk."""
        if number:
            line = "Left %s in the spool for the next process."
            _log(logging.WARNING, line, counted(number, "event"))

    def enqueued_late(self, target: Target) -> None:
        """Log that an event was enqueued after the last flush."""
        suffix = "; once published, it stays in the spool, or is dropped."
        reason = "after close() or the last flush"
        problem = Problem(logging.WARNING, "Enqueued", target, "", suffix=suffix)
        self._note(problem, 1, reason)

    def _log_problem(
        self, kind: str, line: str, problem: str, interval: float = INTERVAL
    ) -> None:
        """Log *problem*, unless one of its *kind* was logged within the *interval*."""
        now = self._clock()
        if problem and now >= self._next_lines.get(kind, now):
            self._next_lines[kind] = now + interval
            _log(logging.WARNING, line, problem)

    def notices(self, notices: Iterable[Notice]) -> None:
        """Log losses, refusals and dead letters."""
        reasons: dict[Problem, list[str]] = {}
        for item in notices:
            problem = _problem_of(item)
            if problem is not None:
                reasons.setdefault(problem, []).append(item.reason)
        for problem, these in reasons.items():
            self._note(problem, len(these), these[-1])

    def unpublished(self, events: Iterable[Event], reason: str) -> None:
        """Log that *events* stay with their thread, because of *reason*."""
        for target, number in Counter(event.target for event in events).items():
            problem = Problem(
                logging.WARNING, "Left unpublished", target, reason, suffix=_CURE
            )
            self._note(problem, number, reason)

    def log_suppressed(self, *, at_last: bool = False) -> None:
        """Log the counts suppressed for a minute; with *at_last*, all of them."""
        latest = float("inf") if at_last else self._clock() - INTERVAL
        with self._lock:
            due = {p: s for p, s in self._suppressed.items() if s.last <= latest}
            for problem in due:
                del self._suppressed[problem]
        for problem, suppressed in due.items():
            if suppressed.number:
                self._note(problem, suppressed.number, suppressed.reason)

    def _note(self, problem: Problem, number: int, reason: str) -> None:
        now = self._clock()
        with self._lock:
            is_new = problem not in self._suppressed
            if is_new and len(self._suppressed) >= _MOST_PROBLEMS:
                # Queues may be named after users or hosts.
                problem = problem._replace(target=_OTHERS)
            before = self._suppressed.get(problem)
            if before is not None:
                more = before.number + number
                self._suppressed[problem] = _Suppressed(before.last, more, reason)
                return
            self._suppressed[problem] = _Suppressed(now, 0, reason)
        _log(
            problem.level,
            "%s %s for %s: %s%s",
            problem.action,
            counted(number, problem.noun),
            problem.target,
            reason,
            problem.suffix,
        )


def _log(level: int, line: str, *args: object) -> None:
    # A logging handler that raises would end the flusher or fail a request.
    with suppress(Exception):
        logger.log(level, line, *args)


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
    target, reason = notice.event.target, notice.reason
    if notice.kind is NoticeKind.FAILED and notice.outcome in (
        Outcome.NACKED,
        Outcome.RETURNED,
    ):
        return Problem(
            logging.WARNING,
            "Broker refused",
            target,
            notice.outcome.value,
            noun="publish attempt",
            suffix=f" ({notice.outcome.value}); retained for retry.",
        )
    if notice.kind is NoticeKind.DEAD:
        outcome = "" if notice.outcome is None else notice.outcome.value
        return Problem(logging.ERROR, "Dead-lettered", target, outcome)
    if notice.kind is NoticeKind.DROPPED:
        return Problem(logging.ERROR, "Dropped", target, reason)
    if notice.kind is NoticeKind.DISCARDED and reason in (ABANDONED, NEVER_PUBLISHED):
        return Problem(logging.WARNING, "Discarded", target, reason)
    return None
