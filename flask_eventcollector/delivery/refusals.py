"""Remembers which waiting events the broker refused last."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from .entries import Entry

#: The most events that are remembered; the latest refusals count.
MOST_REFUSALS = 1000


class Refusal(NamedTuple):
    """The last refusal of one waiting event. Times are Unix times."""

    id: str
    exchange: str
    queue: str
    reason: str
    #: How many times the event was sent.
    attempts: int
    #: When it was sent the last time.
    last_try: float
    #: When it may be sent again; ``None``: it does not depend on the time.
    next_try: float | None

    def reason_for(self, id: str) -> str:
        """Why the event *id* waits: this one, or one behind it for the same target."""
        if id == self.id:
            return self.reason
        return f"behind an event that was refused: {self.reason}"


class Refusals:
    """The entries that were refused last and still wait.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self) -> None:
        self._entries: dict[Entry, float] = {}
        #: Grows with each change.
        self.version = 0

    def note(self, entry: Entry, next_try: float) -> None:
        """Note that *entry* was refused, and is sent again at *next_try*."""
        self._entries.pop(entry, None)
        self._entries[entry] = next_try
        self.version += 1
        if len(self._entries) > MOST_REFUSALS:
            del self._entries[next(iter(self._entries))]

    def forget(self, entry: Entry) -> None:
        """Forget that *entry* was refused, if it was."""
        if self._entries.pop(entry, None) is not None:
            self.version += 1

    def forget_ended(self) -> None:
        """Forget the entries that no longer wait."""
        ended = [e for e in self._entries if not (e.is_retained or e.is_in_flight)]
        for entry in ended:
            self.forget(entry)

    def of(self, journal: object, now: float) -> list[Refusal]:
        """The refusals of events on disk in *journal*, or nowhere yet.

        :param now: the time by the ledger's clock.
        """
        offset = time.time() - now
        return [
            _refusal(entry, next_try, offset)
            for entry, next_try in self._entries.items()
            if entry.row is None or entry.row.journal is journal
        ]


def _refusal(entry: Entry, next_try: float, offset: float) -> Refusal:
    return Refusal(
        entry.event.id,
        *entry.target,
        entry.reason,
        entry.attempts,
        entry.sent_at + offset,
        None if next_try == math.inf else next_try + offset,
    )
