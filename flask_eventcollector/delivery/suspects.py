"""Events over which the broker may have closed a channel or a connection."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from ..events import Target

if TYPE_CHECKING:
    from .entries import Entry


class Suspects:
    """Holds the events that were in flight at such a close, to send each one alone.

    Then the next close identifies the event at fault, and affects no other event.
    Suspects and other events take turns, so that neither delays the other.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self) -> None:
        #: Ordered by the time of the next attempt. Those that have left are skipped
        #: lazily.
        self._waiting: list[tuple[float, int, Entry]] = []
        #: The one that is in flight alone, so that no other event could be at fault.
        self.alone: Entry | None = None
        self._others_turn = False

    def __bool__(self) -> bool:
        return bool(self._skip_departed())

    def add(self, entry: Entry, not_before: float = 0.0) -> None:
        """Hold *entry* until it can be sent alone."""
        heapq.heappush(self._waiting, (not_before, entry.sequence, entry))

    def due(self) -> float | None:
        """When the next suspect may be sent; ``None``: there is none."""
        return self._waiting[0][0] if self._skip_departed() else None

    def wants_to_go(self, now: float, *, others: bool) -> bool:
        """Whether it is a suspect's turn; *others*: other events could be sent."""
        due = self.due()
        if due is None or due > now or self.alone is not None:
            return False
        if self._others_turn and others:
            self._others_turn = False
            return False
        return True

    def take(self) -> Entry:
        """Take the next suspect, which is then in flight alone."""
        self.alone = heapq.heappop(self._waiting)[2]
        return self.alone

    def hold_back(self, target: Target, until: float) -> None:
        """Send no suspect of *target* before *until*."""
        self._waiting = [
            (max(due, until) if entry.target == target else due, sequence, entry)
            for due, sequence, entry in self._waiting
        ]
        heapq.heapify(self._waiting)

    def settled(self, entry: Entry) -> bool:
        """Note that *entry* was settled; returns whether it was in flight alone."""
        if entry is not self.alone:
            return False
        self.alone, self._others_turn = None, True
        return True

    def oldest(self) -> list[Entry]:
        """The waiting suspect with the lowest sequence, if any."""
        waiting = [entry for _, _, entry in self._waiting if entry.is_retained]
        return sorted(waiting, key=lambda entry: entry.sequence)[:1]

    def reopen(self) -> None:
        """Allow all suspects to be sent at once."""
        self._waiting = [(0.0, sequence, entry) for _, sequence, entry in self._waiting]
        heapq.heapify(self._waiting)

    def _skip_departed(self) -> bool:
        while self._waiting and not self._waiting[0][2].is_retained:
            heapq.heappop(self._waiting)
        return bool(self._waiting)
