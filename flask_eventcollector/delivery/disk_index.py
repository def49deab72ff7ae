"""Which events are on disk, and whose rows have yet to follow them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from ..events import Target
from .entries import Entry, Row, State


class Write:
    """What one transaction writes into a file, and what it erases.

    An event that ends meanwhile keeps its row, and comes again.
    """

    def __init__(
        self, new: list[Entry], outdated: list[Entry], *, more: bool = False
    ) -> None:
        #: Entries that get a row.
        self.new = new
        #: Entries whose rows are there, and have to follow them.
        self.outdated = outdated
        #: Whether more than these are overdue.
        self.more = more
        self._states = {entry: entry.state for entry in (*new, *outdated)}

    @property
    def written(self) -> list[tuple[Entry, int]]:
        """The entries whose rows are to be written, with the rows' numbers."""
        alive = (entry for entry, state in self._states.items() if state.alive)
        return [(entry, entry.row.number) for entry in alive if entry.row]

    @property
    def erased(self) -> list[int]:
        """The numbers of the rows that are to be erased."""
        ended = (e for e in self.outdated if not self._states[e].alive)
        return [entry.row.number for entry in ended if entry.row]

    @property
    def followed(self) -> list[tuple[Entry, State]]:
        """The entries whose rows were there, and the state that these follow."""
        return [(entry, self._states[entry]) for entry in self.outdated]


class DiskIndex:
    """What the ledger knows of the backlog on disk; empty where there is none.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self, *, durable: bool) -> None:
        self._durable = durable
        #: By sequence: handed over, alive, and not on disk.
        self._unstored: dict[int, Entry] = {}
        #: For each file: entries whose rows have to follow their state.
        self._outdated: dict[object, list[Entry]] = {}
        #: How many these are.
        self.unerased = 0
        #: Events that dead processes have left and nobody has read yet, per target.
        #: ``None``: nobody knows the target.
        self.unadopted: Mapping[Target | None, int] = {}

    @property
    def unstored(self) -> int:
        """How many events should be on disk and are not."""
        return len(self._unstored)

    def as_dict(self, handed_over: int) -> dict[str, Any]:
        """The fields of :class:`~flask_eventcollector.Stats` that are known here."""
        return {
            "spooled": handed_over - self.unstored if self._durable else 0,
            "unerased": self.unerased,
            "unadopted": sum(self.unadopted.values()),
        }

    # What is to be written.

    def open(self, entry: Entry) -> None:
        """From here *entry* belongs on disk."""
        if self._durable and not entry.is_stored:
            self._unstored[entry.sequence] = entry

    def oldest(self, before: float, limit: int) -> list[Entry]:
        """Of the oldest that are not on disk, those handed over *before*."""
        oldest = islice(self._unstored.values(), limit)
        return [entry for entry in oldest if entry.handed_over_at <= before]

    def assign(self, entries: Iterable[Entry], journal: object) -> list[Entry]:
        """Of *entries*, those that are to be written, with their rows in *journal*."""
        chosen = [e for e in entries if self._unstored.get(e.sequence) is e]
        for entry in chosen:
            entry.row = Row(journal, entry.sequence)
        return chosen

    def stored(self, entries: Iterable[Entry]) -> None:
        """*entries* are on disk."""
        for entry in entries:
            entry.is_stored = True
            self._unstored.pop(entry.sequence, None)

    # Rows that have to follow.

    def change(self, entry: Entry, state: State) -> None:
        """*entry* is about to change: to die, to come back, or to end."""
        dies_or_returns = State.DEAD in (entry.state, state)
        if dies_or_returns or not state.alive:
            # Before the change: if this is cut short, a row is written once too often.
            self.outdate(entry)
        if not state.alive:
            self._unstored.pop(entry.sequence, None)

    def outdate(self, entry: Entry) -> None:
        """The row of *entry*, if it has one, is not what it should be."""
        if entry.row is not None:
            self._outdated.setdefault(entry.row.journal, []).append(entry)
            self.unerased += 1

    def take_outdated(self, journal: object) -> list[Entry]:
        """Take out the entries whose rows in *journal* have to follow."""
        outdated = self._outdated.pop(journal, [])
        self.unerased -= len(outdated)
        return outdated

    # When something went wrong.

    def lose(self, journal: object, living: Iterable[Entry]) -> None:
        """The file is lost: those of the *living* that it had are in memory only."""
        self.take_outdated(journal)
        for entry in living:
            if entry.row is not None and entry.row.journal is journal:
                entry.row, entry.is_stored = None, False
        self.rebuild(living)

    def rebuild(self, living: Iterable[Entry]) -> None:
        """Find anew which of the *living* that were handed over are not on disk."""
        self.unerased = sum(map(len, self._outdated.values()))
        if self._durable:
            unstored = [entry for entry in living if not entry.is_stored]
            unstored.sort(key=lambda entry: entry.sequence)
            self._unstored = {entry.sequence: entry for entry in unstored}
