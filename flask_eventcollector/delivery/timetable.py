"""When delayed events are due, and when events expire."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator

from .entries import Entry, State

#: Seconds until it is checked again whether an event in flight has come back.
_CHECK = 1.0
#: So many may have ended and still be here.
_FEW = 64

#: A heap of times, with the entries' sequences and the entries.
_Heap = list[tuple[float, int, Entry]]


class Timetable:
    """The entries for which time matters. Some may have ended, and are skipped.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self) -> None:
        self._due: _Heap = []
        self._expiring: _Heap = []
        #: How many may be here before those that have ended are looked for.
        self._most = _FEW

    def __bool__(self) -> bool:
        return bool(self._due or self._expiring)

    @property
    def next_at(self) -> float:
        """When the next entry is due or expires; infinite: there is none."""
        return min((heap[0][0] for heap in self._heaps if heap), default=math.inf)

    @property
    def _heaps(self) -> tuple[_Heap, _Heap]:
        return self._due, self._expiring

    def add(self, entry: Entry, now: float) -> None:
        """Watch *entry*, if time matters for it."""
        event = entry.event
        if entry.state is State.DELAYED:
            heapq.heappush(self._due, (now + event.due_in, entry.sequence, entry))
        if event.time_left is not None:
            at = now + event.time_left
            heapq.heappush(self._expiring, (at, entry.sequence, entry))

    def take_due(self, now: float) -> Iterator[Entry]:
        """Remove the delayed entries whose time has come at *now*, in its order."""
        for entry in _take(self._due, now):
            if entry.state is State.DELAYED:
                yield entry

    def take_expired(self, now: float) -> Iterator[Entry]:
        """Remove the entries that have expired at *now* while they waited."""
        for entry in _take(self._expiring, now):
            if entry.state in (State.DELAYED, State.RETAINED):
                yield entry
            elif entry.state is State.IN_FLIGHT:
                # It may come back.
                again = (now + _CHECK, entry.sequence, entry)
                heapq.heappush(self._expiring, again)

    def forget_ended(self, live: int) -> None:
        """Forget those that have ended, if these may be more than half of all here.

        Otherwise each event would stay in memory until it expires, long after its
        confirm.

        :param live: how many entries are handed over, with or without a time.
        """
        if sum(map(len, self._heaps)) <= min(self._most, 2 * live + _FEW):
            return
        self._due = [one for one in self._due if one[2].state is State.DELAYED]
        # One that was retried may be here twice.
        watched = {one[2]: one for one in self._expiring if one[2].state.alive}
        self._expiring = list(watched.values())
        for heap in self._heaps:
            heapq.heapify(heap)
        self._most = 2 * sum(map(len, self._heaps)) + _FEW

    def rebuild(self, live: Iterable[Entry], now: float) -> None:
        """Watch the *live* entries that were handed over."""
        self._due, self._expiring = [], []
        for entry in live:
            self.add(entry, now)


def _take(heap: _Heap, now: float) -> Iterator[Entry]:
    while heap and heap[0][0] <= now:
        yield heapq.heappop(heap)[2]
