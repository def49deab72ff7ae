"""The books of the last hour, for a picture."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import reduce
from operator import add
from pathlib import Path
from typing import NamedTuple

from ..delivery.observations import Happened, Observation
from ..delivery.process import current_process
from ..events import Stats
from .history.reader import History
from .history.records import Counts

#: Seconds between two samples, and how many are kept: those of an hour.
EVERY, MOST = 5.0, 720


class Sample(NamedTuple):
    """The books at one moment."""

    #: Seconds since 1970.
    at: float
    waiting: int
    dead: int
    #: Since the processes' start.
    confirmed: int


class Samples:
    """Looks at the books every five seconds: an observer of one app.

    :param history: what the other processes on this machine have counted; ``None``:
        only this one is known.
    """

    wants = frozenset[Happened]()
    needs_events = False

    def __init__(self, history: History | None) -> None:
        self._history = history
        self._process: object = None
        self._samples: deque[Sample] = deque(maxlen=MOST)

    def processes(self, own: Counts) -> list[Counts]:
        """The counts of all known processes; *own* is newer than its file."""
        found: list[Counts] = []
        if self._history is not None:
            self._history.problems.clear()
            # Unless no process has written yet.
            with suppress(OSError):
                found = self._history.counts()
        return sorted([own, *(one for one in found if one.pid != own.pid)])

    @property
    def problems(self) -> Mapping[Path, str]:
        """Which counts could not be read the last time, and why."""
        return {} if self._history is None else self._history.problems

    def observe(self, observations: Sequence[Observation], stats: Stats) -> None:
        """Take a sample, if it is time."""
        if self._is_due(time.time()):
            own = Counts(os.getpid(), time.time(), stats.as_dict())
            self.take(self.processes(own))

    def close(self) -> None:
        """Nothing to do."""

    def take(self, processes: Sequence[Counts]) -> Sequence[Sample]:
        """The samples so far, with a new one if it is time.

        :param processes: what :meth:`processes` has just returned.
        """
        if self._is_due(now := time.time()):
            books = reduce(add, (one.books for one in processes))
            self._samples.append(sample(now, books))
        return [*self._samples]

    def _is_due(self, now: float) -> bool:
        if self._process != (process := current_process()):
            # A forked child's books begin anew.
            self._process = process
            self._samples.clear()
        return not self._samples or now - self._samples[-1].at >= EVERY


def sample(now: float, books: Stats) -> Sample:
    """What *books* say at a moment."""
    return Sample(now, books.in_flight + books.retained, books.dead, books.confirmed)
