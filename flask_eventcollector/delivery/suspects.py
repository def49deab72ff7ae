"""Events that may have made the broker end a channel or a connection."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .entries import Entry


class Suspects:
    """Waits with those that were in flight at such an end, to send each one alone.

    Then the next end says which of them it was, and costs no other event anything.
    In turns with all other events, so that neither keeps the other waiting.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self) -> None:
        #: Ordered by the time of the next try. What has left is skipped when met.
        self._waiting: list[tuple[float, int, Entry]] = []
        #: The one that is in flight, with nothing beside it that could be to blame.
        self.alone: Entry | None = None
        self._others_turn = False

    def __bool__(self) -> bool:
        return bool(self._skip_departed())

    def add(self, entry: Entry, not_before: float = 0.0) -> None:
        """Let *entry* wait until it can be sent alone."""
        heapq.heappush(self._waiting, (not_before, entry.sequence, entry))

    def due(self) -> float | None:
        """When the next of them may be sent; ``None``: there is none."""
        return self._waiting[0][0] if self._skip_departed() else None

    def wants_to_go(self, now: float, *, others: bool) -> bool:
        """Whether it is the turn of one of them; *others*: something else could go."""
        due = self.due()
        if due is None or due > now or self.alone is not None:
            return False
        if self._others_turn and others:
            self._others_turn = False
            return False
        return True

    def take(self) -> Entry:
        """The next of them, which is then alone."""
        self.alone = heapq.heappop(self._waiting)[2]
        return self.alone

    def settled(self, entry: Entry) -> bool:
        """There is a word on *entry*; returns whether it was alone."""
        if entry is not self.alone:
            return False
        self.alone, self._others_turn = None, True
        return True

    def oldest(self) -> list[Entry]:
        """The waiting one with the lowest sequence, if there is any."""
        waiting = [entry for _, _, entry in self._waiting if entry.is_retained]
        return sorted(waiting, key=lambda entry: entry.sequence)[:1]

    def reopen(self) -> None:
        """Let all of them be tried at once."""
        self._waiting = [(0.0, sequence, entry) for _, sequence, entry in self._waiting]
        heapq.heapify(self._waiting)

    def _skip_departed(self) -> bool:
        while self._waiting and not self._waiting[0][2].is_retained:
            heapq.heappop(self._waiting)
        return bool(self._waiting)
