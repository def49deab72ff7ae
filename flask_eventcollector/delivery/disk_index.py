"""Tracks which events are on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from ..events import Target
from .entries import Entry, Row, State


class Write:
    """What one transaction writes into a file, and what it erases.

    An event that ends during the transaction is handled by the next one.
    """

    def __init__(
        self, new: list[Entry], outdated: list[Entry], *, more: bool = False
    ) -> None:
        #: Entries that get a row.
        self.new = new
        #: Entries whose existing rows must be updated or erased.
        self.outdated = outdated
        #: Whether more than these are overdue.
        self.more = more
        self._states = {entry: entry.state for entry in (*new, *outdated)}

    @property
    def written(self) -> list[tuple[Entry, int]]:
        """The entries whose rows are written, with the row numbers."""
        alive = (entry for entry, state in self._states.items() if state.alive)
        return [(entry, entry.row.number) for entry in alive if entry.row]

    @property
    def erased(self) -> list[int]:
        """The numbers of the rows that are erased."""
        ended = (e for e in self.outdated if not self._states[e].has_row)
        return [entry.row.number for entry in ended if entry.row]

    @property
    def freed(self) -> list[tuple[Entry, int]]:
        """The entries that any process may have, with the row numbers."""
        left = (e for e in self.outdated if self._states[e] is State.OUTBOXED)
        return [(entry, entry.row.number) for entry in left if entry.row]

    @property
    def followed(self) -> list[tuple[Entry, State]]:
        """The entries whose rows existed, with the state that the rows now reflect."""
        return [(entry, self._states[entry]) for entry in self.outdated]


class DiskIndex:
    """What the ledger knows of the store on disk; empty if there is none.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self, *, durable: bool) -> None:
        self._durable = durable
        #: By sequence: handed over, alive, and not on disk.
        self._unstored: dict[int, Entry] = {}
        #: By sequence: alive, and committed as rows of the outbox.
        self._committed: dict[int, Entry] = {}
        #: For each file: entries whose rows no longer reflect their state.
        self._outdated: dict[object, list[Entry]] = {}
        #: How many of these there are.
        self.unerased = 0
        #: For each file: how many a transaction is about to update or erase.
        self._updating: dict[object, int] = {}
        #: Events of other processes that were not read yet, by target. ``None``: the
        #: target is unknown.
        self.unadopted: Mapping[Target | None, int] = {}
        self._unadopted_in: dict[object, Mapping[Target | None, int]] = {}

    @property
    def unstored(self) -> int:
        """How many events should be on disk and are not."""
        return len(self._unstored)

    def as_dict(self, handed_over: int) -> dict[str, Any]:
        """The fields of :class:`~flask_eventcollector.Stats` that are known here."""
        return {
            "spooled": self._spooled(handed_over) if self._durable else 0,
            "committed": len(self._committed),
            "unerased": self.unerased + sum(self._updating.values()),
            "unadopted": sum(self.unadopted.values()),
        }

    def _spooled(self, handed_over: int) -> int:
        return handed_over - self.unstored - len(self._committed)

    # What must be written.

    def open(self, entries: Iterable[Entry]) -> None:
        """Note that *entries* must be stored from now on."""
        if self._durable:
            unstored = (entry for entry in entries if not entry.is_stored)
            self._unstored.update((entry.sequence, entry) for entry in unstored)

    def adopt(self, entry: Entry) -> None:
        """Note that *entry* comes from another process, or from the outbox."""
        self.open([entry])
        if entry.is_committed:
            self._committed[entry.sequence] = entry

    def end(self, entries: Iterable[Entry]) -> None:
        """Note that *entries*, whose rows are outdated, no longer need to be stored."""
        if self._unstored or self._committed:
            for entry in entries:
                self._unstored.pop(entry.sequence, None)
                self._committed.pop(entry.sequence, None)

    def oldest(self, before: float, limit: int) -> list[Entry]:
        """Of the *limit* oldest unstored entries, those handed over by *before*."""
        oldest = islice(self._unstored.values(), limit)
        return [entry for entry in oldest if entry.handed_over_at <= before]

    def assign(self, entries: Iterable[Entry], journal: object) -> list[Entry]:
        """Assign rows in *journal* to the unstored *entries*; returns those."""
        unstored = [e for e in entries if self._unstored.get(e.sequence) is e]
        for entry in unstored:
            entry.row = Row(journal, entry.sequence)
        return unstored

    def stored(self, entries: Iterable[Entry]) -> None:
        """Note that *entries* are on disk."""
        for entry in entries:
            entry.is_stored = True
            self._unstored.pop(entry.sequence, None)

    # Rows that must be updated.

    def change(self, entry: Entry, state: State) -> None:
        """*entry* is about to change to *state*."""
        dies_or_returns = State.DEAD in (entry.state, state)
        if dies_or_returns or not state.alive:
            # Before the change: an interruption then costs only a redundant write.
            self.outdate(entry)
        if not state.alive:
            self._unstored.pop(entry.sequence, None)
            self._committed.pop(entry.sequence, None)

    def outdate(self, entry: Entry) -> None:
        """The row of *entry*, if it has one, must be updated or erased."""
        if entry.row is not None:
            self._outdated.setdefault(entry.row.journal, []).append(entry)
            self.unerased += 1

    def take_outdated(self, journal: object) -> list[Entry]:
        """Take the entries whose rows in *journal* must be updated or erased.

        Until :meth:`end_update`, their rows are still there.
        """
        outdated = self._outdated.pop(journal, [])
        self._updating[journal] = len(outdated)
        self.unerased -= len(outdated)
        return outdated

    def end_update(self, journal: object) -> None:
        """Note that the transaction on *journal* has ended."""
        self._updating.pop(journal, None)

    # What is still to be adopted.

    def note_unadopted(
        self, source: object, unadopted: Mapping[Target | None, int]
    ) -> None:
        """Note what is still to be adopted from *source*."""
        self._unadopted_in[source] = unadopted
        total = Counter[Target | None]()
        for counts in self._unadopted_in.values():
            total.update(counts)
        self.unadopted = total

    # Recovery.

    def lose(self, journal: object, live: Iterable[Entry]) -> None:
        """The file is lost: the *live* entries that it held are in memory only."""
        self.take_outdated(journal)
        self.end_update(journal)
        for entry in live:
            if entry.row is not None and entry.row.journal is journal:
                entry.row, entry.is_stored = None, False
        self.rebuild(live)

    def rebuild(self, live: Iterable[Entry]) -> None:
        """Recompute where the *live* entries are that were handed over."""
        live = list(live)
        self._committed = {e.sequence: e for e in live if e.is_committed}
        self.unerased = sum(map(len, self._outdated.values()))
        if self._durable:
            unstored = [entry for entry in live if not entry.is_stored]
            unstored.sort(key=lambda entry: entry.sequence)
            self._unstored = {entry.sequence: entry for entry in unstored}
