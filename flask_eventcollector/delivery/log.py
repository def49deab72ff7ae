"""What people read in the log, and how often."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from ..events import BrokerState, Outcome, Stats, Target
from .entries import ABANDONED, NEVER_PUBLISHED, Notice, NoticeKind
from .store import QuarantinedFile

logger = logging.getLogger("flask_eventcollector")

#: Seconds between two log lines about the same trouble.
INTERVAL = 60.0
#: Distinct troubles that are remembered for that.
_MOST_PROBLEMS = 1000


class Problem(NamedTuple):
    """What a log line is about."""

    level: int
    target: Target
    words: str
    #: An event that is refused again and again counts each time.
    counted: str = "event(s)"


class ThrottledLog:
    """Writes the log: seldom, with counts, and never a payload.

    The state is changed before a line is logged, and no lock is held meanwhile: a
    logging handler may enqueue events, or raise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Reentrant: a destructor may log, or drop an event, at any moment.
        self._lock = threading.RLock()
        #: When each was last logged, and how often it was passed over since.
        self._suppressed: dict[Problem, tuple[float, int]] = {}
        self._away_since: float | None = None
        self._next_line = float("-inf")
        self._problems: dict[str, tuple[str, float]] = {}

    def broker(self, stats: Stats) -> None:
        """Report how the broker stands. Only the flusher calls this."""
        now = self._clock()
        if stats.broker.is_trouble:
            self._away(stats, now)
        elif stats.broker is BrokerState.READY:
            self._back(stats, now)
            self._log_problem("The broker is there, but: %s", stats.broker_error, now)

    def _away(self, stats: Stats, now: float) -> None:
        first = self._away_since is None
        # A broker that is merely slow may stall, and go on, many times a minute.
        fresh = first and stats.broker is not BrokerState.STALLED
        if now < self._next_line and not fresh:
            return
        self._next_line = now + INTERVAL
        since = self._away_since = now if self._away_since is None else self._away_since
        what = f"{stats.broker}: {stats.broker_error}".removesuffix(": ")
        if first:
            _log(logging.WARNING, "The broker is %s. %s", what, _waiting(stats))
            return
        still = "The broker is still %s (for %d s). %s"
        _log(logging.WARNING, still, what, now - since, _waiting(stats))

    def _back(self, stats: Stats, now: float) -> None:
        if self._away_since is None:
            return
        since, self._away_since = self._away_since, None
        back = "The broker is back after %d s. %s"
        _log(logging.WARNING, back, now - since, _waiting(stats))

    def spool(self, stats: Stats) -> None:
        """Report what is wrong with the disk. Only the flusher calls this."""
        line = "The spool fails: %s"
        if stats.unspooled:
            line += f". {stats.unspooled} event(s) are in memory only."
        self._log_problem(line, stats.spool_error, self._clock())

    def quarantined(self, file: QuarantinedFile) -> None:
        """Report a file of the spool that could not be read as a whole."""
        line = "The spool's file %s was set aside: %s. %d of its events are delivered."
        _log(logging.ERROR, line, file.path, file.reason, file.rescued)

    def left(self, stats: Stats) -> None:
        """Report, at the end, what stays on disk."""
        if stats.spooled:
            line = "%d event(s) stay in the spool, for the next process."
            _log(logging.WARNING, line, stats.spooled)

    def _log_problem(self, line: str, problem: str, now: float) -> None:
        """Log *complaint* if it is new, or was last logged a minute ago."""
        about = line.partition(":")[0]
        before, next_line = self._problems.get(about, ("", now))
        if not problem or (problem == before and now < next_line):
            return
        self._problems[about] = (problem, now + INTERVAL)
        _log(logging.WARNING, line, problem)

    def notices(self, notices: Iterable[Notice]) -> None:
        """Report what nobody should have to find out by counting."""
        problems = Counter(_problem_of(item) for item in notices)
        for problem, number in problems.items():
            if problem is not None:
                self._note(problem, number)

    def log_suppressed(self, *, at_last: bool = False) -> None:
        """Report what was passed over a minute ago; *at_last*, whatever was."""
        latest = float("inf") if at_last else self._clock() - INTERVAL
        with self._lock:
            due = {t: n for t, (last, n) in self._suppressed.items() if last <= latest}
            for problem in due:
                del self._suppressed[problem]
        for problem, number in due.items():
            if number:
                self._note(problem, number)

    def _note(self, problem: Problem, number: int) -> None:
        now = self._clock()
        with self._lock:
            if problem in self._suppressed:
                last, passed = self._suppressed[problem]
                self._suppressed[problem] = (last, passed + number)
                return
            if len(self._suppressed) < _MOST_PROBLEMS:
                self._suppressed[problem] = (now, 0)
        line = "%d %s for %s %s"
        _log(
            problem.level, line, number, problem.counted, problem.target, problem.words
        )


def _log(level: int, line: str, *about: object) -> None:
    # A logging handler that raises would end the flusher, or fail a request.
    with suppress(Exception):
        logger.log(level, line, *about)


def _waiting(stats: Stats) -> str:
    counts = (
        f"{stats.retained} event(s) retained, {stats.in_flight} in flight, "
        f"{stats.dead} dead"
    )
    if stats.dropped:
        counts += f"; {stats.dropped} dropped so far"
    return counts + "."


def _problem_of(notice: Notice) -> Problem | None:
    """What to say about it; ``None``: it is not worth a line of its own."""
    target, reason = notice.event.target, notice.reason
    if notice.kind is NoticeKind.FAILED and notice.outcome in (
        Outcome.NACKED,
        Outcome.RETURNED,
    ):
        outcome = notice.outcome.value if notice.outcome else ""
        words = f"({outcome}: {reason}); the events are kept and tried again."
        return Problem(logging.WARNING, target, words, "refusal(s)")
    if notice.kind is NoticeKind.DEAD:
        return Problem(logging.ERROR, target, f"are dead ({reason}).")
    if notice.kind is NoticeKind.DROPPED:
        return Problem(logging.ERROR, target, f"were dropped: {reason}.")
    if notice.kind is NoticeKind.DISCARDED and reason in (ABANDONED, NEVER_PUBLISHED):
        return Problem(logging.WARNING, target, f"were discarded: {reason}.")
    return None
