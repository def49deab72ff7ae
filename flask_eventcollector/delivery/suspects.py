"""Events over which the broker may have closed a channel or a connection."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Container
from typing import TYPE_CHECKING, NamedTuple

from ..events import Target

if TYPE_CHECKING:
    from .entries import Entry


class _Turn(NamedTuple):
    """When it is a suspect's turn.

    The one with the fewest attempts is first; then the first one of each target, the
    second one of each, and so on. So many suspects of one target do not delay those of
    others.
    """

    not_before: float
    attempts: int
    rank: int
    sequence: int
    entry: Entry


class Suspects:
    """Holds the events that were in flight at such a close, to send each one alone.

    Then the next close identifies the event at fault, and affects no other event.
    Suspects and other events take turns, so that neither delays the other.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self) -> None:
        #: A heap. Those that have left are skipped lazily.
        self._waiting: list[_Turn] = []
        #: The last one by target.
        self._ranks: Counter[Target] = Counter()
        #: The one that is in flight alone, so that no other event could be at fault.
        self.alone: Entry | None = None
        #: Whether other events are next, since a suspect was sent last.
        self.is_others_turn = False

    def has(self, target: Target) -> bool:
        """Whether there is a suspect for *target*."""
        return any(turn.entry.target == target for turn in self._waiting)

    def count(self, target: Target) -> int:
        """How many suspects for *target* are waiting."""
        waiting = (turn.entry for turn in self._waiting if turn.entry.is_retained)
        return sum(entry.target == target for entry in waiting)

    def add(self, entry: Entry, not_before: float = 0.0) -> None:
        """Hold *entry* until it can be sent alone."""
        if not self._waiting:
            self._ranks.clear()
        rank = self._ranks[entry.target] = self._ranks[entry.target] + 1
        turn = _Turn(not_before, entry.attempts, rank, entry.sequence, entry)
        heapq.heappush(self._waiting, turn)

    def remove(self, entries: Container[Entry]) -> None:
        """Remove those of *entries* that wait here."""
        self._waiting = [turn for turn in self._waiting if turn.entry not in entries]
        heapq.heapify(self._waiting)

    def due(self) -> float | None:
        """When the next suspect may be sent; ``None``: there is none."""
        return self._waiting[0].not_before if self._skip_departed() else None

    def next(self, now: float) -> Entry | None:
        """The suspect that may be sent at *now*, if any."""
        due = self.due()
        return None if due is None or due > now else self._waiting[0].entry

    def take(self) -> Entry:
        """Take the next suspect, which is then in flight alone."""
        self.alone = heapq.heappop(self._waiting).entry
        return self.alone

    def hold_back(self, target: Target, until: float) -> None:
        """Send no suspect of *target* before *until*."""
        self._waiting = [
            turn._replace(not_before=max(turn.not_before, until))
            if turn.entry.target == target
            else turn
            for turn in self._waiting
        ]
        heapq.heapify(self._waiting)

    def acquit(self, entry: Entry) -> None:
        """*entry*, in flight alone, is not at fault, although it is not settled."""
        entry.is_suspect = False
        self.settled(entry)

    def settled(self, entry: Entry) -> bool:
        """Note that *entry* was settled; returns whether it was in flight alone."""
        if entry is not self.alone:
            return False
        self.alone, self.is_others_turn = None, True
        return True

    def oldest(self) -> list[Entry]:
        """The waiting suspect with the lowest sequence, if any."""
        waiting = [turn.entry for turn in self._waiting if turn.entry.is_retained]
        return sorted(waiting, key=lambda entry: entry.sequence)[:1]

    def reopen(self) -> None:
        """Allow all suspects to be sent at once."""
        self._waiting = [turn._replace(not_before=0.0) for turn in self._waiting]
        heapq.heapify(self._waiting)

    def _skip_departed(self) -> bool:
        while self._waiting and not self._waiting[0].entry.is_retained:
            heapq.heappop(self._waiting)
        return bool(self._waiting)
