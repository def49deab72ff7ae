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
from .entries import ABANDONED, NEVER_PUBLISHED, Kind, News
from .store import SetAside

logger = logging.getLogger("flask_eventcollector")

#: Seconds between two log lines about the same trouble.
INTERVAL = 60.0
#: Distinct troubles that are remembered for that.
_MOST_TROUBLES = 1000

_AWAY = (BrokerState.DOWN, BrokerState.BLOCKED, BrokerState.STALLED)


class Trouble(NamedTuple):
    """What a log line is about."""

    level: int
    target: Target
    words: str
    #: An event that is refused again and again counts each time.
    counted: str = "event(s)"


class Reporter:
    """Writes the log: seldom, with counts, and never a payload.

    The state is changed before a line is logged, and no lock is held meanwhile: a
    logging handler may enqueue events, or raise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        #: When each was last logged, and how often it was passed over since.
        self._troubles: dict[Trouble, tuple[float, int]] = {}
        self._away_since: float | None = None
        self._next_line = float("-inf")
        self._complaints: dict[str, tuple[str, float]] = {}

    def broker(self, stats: Stats) -> None:
        """Report how the broker stands. Only the flusher calls this."""
        now = self._clock()
        if stats.broker in _AWAY:
            self._away(stats, now)
        elif stats.broker is BrokerState.READY:
            self._back(stats, now)
            self._complain("The broker is there, but: %s", stats.broker_error, now)

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
        self._complain(line, stats.spool_error, self._clock())

    def set_aside(self, file: SetAside) -> None:
        """Report a file of the spool that could not be read as a whole."""
        line = "The spool's file %s was set aside: %s. %d of its events are delivered."
        _log(logging.ERROR, line, file.path, file.reason, file.rescued)

    def left(self, stats: Stats) -> None:
        """Report, at the end, what stays on disk."""
        if stats.spooled:
            line = "%d event(s) stay in the spool, for the next process."
            _log(logging.WARNING, line, stats.spooled)

    def _complain(self, line: str, complaint: str, now: float) -> None:
        """Log *complaint* if it is new, or was last logged a minute ago."""
        about = line.partition(":")[0]
        before, next_line = self._complaints.get(about, ("", now))
        if not complaint or (complaint == before and now < next_line):
            return
        self._complaints[about] = (complaint, now + INTERVAL)
        _log(logging.WARNING, line, complaint)

    def news(self, news: Iterable[News]) -> None:
        """Report what nobody should have to find out by counting."""
        troubles = Counter(_trouble(item) for item in news)
        for trouble, number in troubles.items():
            if trouble is not None:
                self._note(trouble, number)

    def speak_up(self, *, at_last: bool = False) -> None:
        """Report what was passed over a minute ago; *at_last*, whatever was."""
        latest = float("inf") if at_last else self._clock() - INTERVAL
        with self._lock:
            due = {t: n for t, (last, n) in self._troubles.items() if last <= latest}
            for trouble in due:
                del self._troubles[trouble]
        for trouble, number in due.items():
            if number:
                self._note(trouble, number)

    def _note(self, trouble: Trouble, number: int) -> None:
        now = self._clock()
        with self._lock:
            if trouble in self._troubles:
                last, passed = self._troubles[trouble]
                self._troubles[trouble] = (last, passed + number)
                return
            if len(self._troubles) < _MOST_TROUBLES:
                self._troubles[trouble] = (now, 0)
        line = "%d %s for %s %s"
        _log(
            trouble.level, line, number, trouble.counted, trouble.target, trouble.words
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


def _trouble(news: News) -> Trouble | None:
    """What to say about it; ``None``: it is not worth a line of its own."""
    target, reason = news.event.target, news.reason
    if news.kind is Kind.FAILED and news.outcome in (Outcome.NACKED, Outcome.RETURNED):
        outcome = news.outcome.value if news.outcome else ""
        words = f"({outcome}: {reason}); the events are kept and tried again."
        return Trouble(logging.WARNING, target, words, "refusal(s)")
    if news.kind is Kind.DEAD:
        return Trouble(logging.ERROR, target, f"are dead ({reason}).")
    if news.kind is Kind.DROPPED:
        return Trouble(logging.ERROR, target, f"were dropped: {reason}.")
    if news.kind is Kind.DISCARDED and reason in (ABANDONED, NEVER_PUBLISHED):
        return Trouble(logging.WARNING, target, f"were discarded: {reason}.")
    return None
