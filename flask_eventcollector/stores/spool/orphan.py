"""A dead process's file, whose events are read page by page."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import islice
from pathlib import Path
from typing import Any

from ...delivery.entries import Entry, Row, State
from ...events import Event, Target
from .folder import Claim, can_hold_events
from .journal import Journal
from .recovery.salvage import intact_rows
from .recovery.wal import check_wal
from .refusals import RefusalsFile
from .rows import DamagedRow, StoredEvent, intact, read_row, row_of


@dataclass
class _Place:
    """The position up to which the events of one target were read."""

    unadopted: int
    read_to: int = -1
    #: The events in memory that are not delivered yet.
    here: set[Entry] = field(default_factory=set)
    #: A heap of the rows up to there that are still to be read: when they are due, as a
    #: Unix time, and their numbers.
    later: list[tuple[float, int]] = field(default_factory=list)

    @property
    def ready(self) -> int:
        """How many of these are not delayed: those take nobody's turn."""
        return sum(entry.state is not State.DELAYED for entry in self.here)


@dataclass
class Room:
    """How many more delayed events, and how many bytes, may be in memory."""

    events: int
    size: int

    @property
    def is_left(self) -> bool:
        return self.events > 0 and self.size > 0

    def take(self, event: Event) -> bool:
        """Take room for *event*; returns whether there was any."""
        if not self.is_left:
            return False
        self.events -= 1
        self.size -= event.size
        return True


def open_sound(path: Path, *, full_sync: bool = False) -> Journal | None:
    """Open a file that this process has locked; ``None``: it never had events.

    Checks the whole file, which takes a second for a million rows. Raises what
    :func:`can_hold_events` raises, and ``sqlite3.DatabaseError`` for any other damage.
    """
    if not can_hold_events(path):
        if next(intact_rows(path), None) is not None:
            raise sqlite3.DatabaseError("its first page is missing")
        return None
    check_wal(path)
    journal = Journal.open(path, full_sync=full_sync)
    try:
        journal.check()
    except BaseException:
        journal.close()
        raise
    return journal


class Orphan:
    """An undamaged file. Its rows stay in it until their events are final.

    Only some of its events are in memory at any time, and no target takes more than its
    share of them. So a missing queue does not delay the others.
    """

    def __init__(self, claim: Claim, journal: Journal) -> None:
        self.claim = claim
        self.journal = journal
        self.opened_at = time.monotonic()
        self._places = {t: _Place(count) for t, count in journal.targets().items()}
        #: The rows that were read and are still on disk, with the place where they were
        #: read: their events may have been redirected since.
        self._known: dict[object, _Place] = {}
        self._dead: set[Entry] = set()
        #: How many damaged rows were found.
        self.damaged = 0
        self.rescued = 0
        self.refusals = RefusalsFile(claim.path, journal)

    @property
    def here(self) -> int:
        """How many of its events are in memory and not delivered yet."""
        return sum(len(place.here) for place in self._places.values())

    @property
    def entries(self) -> set[Entry]:
        """Its events that are in memory."""
        return self._dead.union(*(place.here for place in self._places.values()))

    @property
    def targets(self) -> int:
        """How many targets still have events in it."""
        return sum(bool(p.unadopted or p.here) for p in self._places.values())

    @property
    def unadopted(self) -> dict[Target, int]:
        """How many of its events are only on disk."""
        return {
            t: place.unadopted for t, place in self._places.items() if place.unadopted
        }

    @property
    def put_off(self) -> int:
        """How many of these were passed, since they are delayed."""
        return sum(len(place.later) for place in self._places.values())

    @property
    def is_finished(self) -> bool:
        """Whether all of its events have reached a final state."""
        return not (self.unadopted or self.here or self._dead)

    def read(
        self, share: int, count: int, size: int, for_delayed: Room
    ) -> Iterator[Entry]:
        """The next events: at most *count*, and about *size* bytes.

        No target gets more than its *share* of the memory. What is delayed stays on
        disk until it is due, or until there is room *for_delayed* events.
        """
        for target, place in self._places.items():
            if not place.unadopted or place.ready > share // 2:
                continue
            wanted = min(share - place.ready, count)
            if wanted <= 0 or size <= 0:
                return
            rows = islice(self._rows(target, place, wanted, size, for_delayed), wanted)
            for entry in self._read(place, rows, for_delayed):
                count -= 1
                size -= entry.event.size
                yield entry

    def follow(self, entry: Entry, state: State) -> None:
        """Update the row of *entry*, which was read from this file, to *state*."""
        place = self._known.get(entry.row)
        if place is None:
            # It has ended before.
            return
        place.here.discard(entry)
        self._dead.discard(entry)
        if state is State.DEAD:
            self._dead.add(entry)
        elif state.alive:
            place.here.add(entry)
        else:
            del self._known[entry.row]

    def revive(self, ids: Sequence[str]) -> None:
        """Retain those of the events with *ids* that are dead and only on disk."""
        unadopted = self._unread_with(ids)
        self.journal.write([living_row(s) for s in unadopted if s.dead is not None])

    def erase(self, ids: Sequence[str]) -> list[Entry]:
        """Erase those of the events with *ids* that are only on disk; return them."""
        unadopted = self._unread_with(ids)
        self.journal.write((), [stored.number for stored in unadopted])
        self._take_from_places(unadopted)
        return [adopted_entry(stored) for stored in unadopted]

    def redirect(self, ids: Sequence[str], queue: str) -> None:
        """Retain those of the events with *ids* that are only on disk for *queue*."""
        unadopted = self._unread_with(ids)
        self.journal.write([living_row(stored, queue) for stored in unadopted])
        self._take_from_places(unadopted)
        for number, event, _ in unadopted:
            target = event.target._replace(queue=queue)
            place = self._places.setdefault(target, _Place(0))
            place.unadopted += 1
            if number <= place.read_to:
                # First, and in their order, unless they are delayed.
                heappush(place.later, (event.due_at if event.due_in else 0.0, number))

    def _take_from_places(self, unadopted: Iterable[StoredEvent]) -> None:
        """These events are not to be read any more, at least for their targets."""
        numbers = set()
        for number, event, _ in unadopted:
            self._places[event.target].unadopted -= 1
            numbers.add(number)
        for place in self._places.values():
            place.later = [item for item in place.later if item[1] not in numbers]
            heapify(place.later)

    def _unread_with(self, ids: Sequence[str]) -> list[StoredEvent]:
        # To find a row by its event's id, SQLite has to scan all rows.
        rows = self.journal.rows_with(ids) if self.unadopted else []
        found = intact(rows)
        return [s for s in found if Row(self.journal, s.number) not in self._known]

    def _rows(
        self, target: Target, place: _Place, count: int, size: int, for_delayed: Room
    ) -> Iterator[tuple[Any, ...]]:
        """The next rows of *target*, first those that were passed."""
        later = place.later
        while later and (for_delayed.is_left or later[0][0] <= time.time()):
            number = later[0][1]
            rows = list(self.journal.scan(number, number))
            heappop(later)
            yield from rows
        rows = self.journal.rows_of(target, place.read_to, count, size)
        yield from rows
        if not rows:
            place.unadopted = len(later)

    def _read(
        self, place: _Place, rows: Iterable[tuple[Any, ...]], for_delayed: Room
    ) -> Iterator[Entry]:
        for row in rows:
            place.read_to = max(place.read_to, row[0])
            here = Row(self.journal, row[0])
            if here in self._known:
                continue
            stored: StoredEvent | None = None
            with suppress(DamagedRow):
                stored = read_row(row)
            if stored is not None and _stays(stored, for_delayed):
                heappush(place.later, (stored.event.due_at, stored.number))
                continue
            self._known[here] = place
            place.unadopted -= 1
            if stored is None:
                self.damaged += 1
                continue
            entry = adopted_entry(stored)
            entry.row, entry.is_stored = here, True
            self.rescued += 1
            (self._dead if stored.dead is not None else place.here).add(entry)
            yield entry


def _stays(stored: StoredEvent, for_delayed: Room) -> bool:
    """Whether it is delayed, and there is no room for it in memory."""
    is_delayed = stored.dead is None and stored.event.due_in > 0
    return is_delayed and not for_delayed.take(stored.event)


class CopiedFile:
    """A file that is closed once its events are in this process's own file.

    *entries* were already read from it. If there is *damage*, its intact rows are read,
    too; otherwise nothing is left to read.
    """

    def __init__(self, claim: Claim, entries: Iterable[Entry], damage: str) -> None:
        self.claim = claim
        self.damage = damage
        self._rows = intact_rows(claim.path)
        self._copied = set(entries)
        self.is_read = not damage
        self.rescued = 0

    @property
    def entries(self) -> set[Entry]:
        """Its events that are in memory, and not yet in this process's own file."""
        self._copied = {e for e in self._copied if e.state.alive and not e.is_stored}
        return self._copied

    @property
    def here(self) -> int:
        """How many these are."""
        return len(self.entries)

    @property
    def is_finished(self) -> bool:
        """Whether all intact rows are final, or in this process's own file."""
        return self.is_read and not self.here

    def read(self, count: int, size: int) -> Iterator[Entry]:
        """The next intact events: at most *count*, and about *size* bytes."""
        while count > 0 and size > 0 and not self.is_read:
            try:
                stored = next(self._rows, None)
            except OSError:
                # It could not be opened, so nothing was read from it.
                self._rows = intact_rows(self.claim.path)
                raise
            if stored is None:
                self.is_read = True
                return
            entry = adopted_entry(stored)
            self._copied.add(entry)
            self.rescued += 1
            count -= 1
            size -= entry.event.size
            yield entry


def adopted_entry(stored: StoredEvent) -> Entry:
    """The entry for an event that another process had enqueued."""
    entry = Entry(stored.event)
    # That process may have sent it already.
    entry.possible_duplicate = True
    entry.state = State.RETAINED if stored.dead is None else State.DEAD
    entry.reason = stored.dead or ""
    return entry


def living_row(stored: StoredEvent, queue: str | None = None) -> tuple[Any, ...]:
    """The row for an event that is no longer dead.

    :param queue: its new target queue; ``None``: it keeps its own.
    """
    entry = adopted_entry(stored)
    entry.state = State.RETAINED
    if queue is not None:
        entry.redirect(queue)
    return row_of(entry, stored.number)
