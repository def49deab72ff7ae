"""When delayed rows that this process has written are due."""

from __future__ import annotations

import time
from collections import deque
from heapq import heappop, heappush

from ...delivery.periodic_worker import drain


class DueTimes:
    """The times at which a claim finds more. Nobody holds these rows until then."""

    def __init__(self) -> None:
        self._new: deque[float] = deque()
        #: A heap, which only the store's thread uses.
        self._times: list[float] = []

    def add(self, at: float) -> None:
        """Note that a row is due *at* this time; called by any thread."""
        self._new.append(at)

    def take_past(self) -> bool:
        """Forget the times that have come; returns whether there were any."""
        for at in drain(self._new):
            heappush(self._times, at)
        any_is_past = False
        while self._times and self._times[0] <= time.monotonic():
            heappop(self._times)
            any_is_past = True
        return any_is_past
