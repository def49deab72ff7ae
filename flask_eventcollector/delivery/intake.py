"""What collectors hold, within the limits."""

from __future__ import annotations

from collections import deque

from ..events import Event
from .entries import (
    OVERFLOW,
    REPEATED,
    REPLACED,
    Entry,
    Notice,
    NoticeKind,
    State,
    Waiter,
)
from .limits import Limits
from .moves import Moves
from .observations import Happened
from .overflow import Overflow
from .reports import Notices, Reports

#: How many events may be recorded without the lock at a time, and the size of each in
#: bytes. With many threads, the limits may briefly be exceeded by that much.
MOST_ARRIVALS, SMALL = 64, 16 * 1024


class Intake:
    """Takes in what collectors collect, and makes room for it.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(
        self, limits: Limits, moves: Moves, overflow: Overflow, reports: Reports
    ) -> None:
        self._limits = limits
        self._moves = moves
        self._room = moves.room
        self._overflow = overflow
        self._reports = reports
        #: How many events may be collected without the lock.
        self.admitted = 0
        #: Entries that were collected without it, and are not in the books yet.
        self.arrivals: deque[Entry] = deque()

    def admit(self) -> None:
        """Compute how many may be collected without the lock.

        Needed wherever more is held than before. If less is, it allows too few, until a
        collector that exceeds it takes the lock.
        """
        self.admitted = self._room.for_arrivals(MOST_ARRIVALS, SMALL)

    def take_arrivals(self) -> None:
        """Enter what was collected without the lock into the books."""
        arrivals = list(self.arrivals)
        if arrivals:
            self._open([e for e in arrivals if e.state is State.NEW])
        for _ in arrivals:
            # Removed afterwards: after an interruption, they are repeated, which has
            # no effect.
            self.arrivals.popleft()

    def _open(self, entries: list[Entry]) -> None:
        if self._room.has(len(entries), len(entries) * SMALL, reserve=True):
            self._moves.books.open(entries)
            return
        notices = self._reports.deferred
        for entry in entries:
            fits = self._make_room(entry.event, notices, is_modest=True)
            self._moves.books.open([entry])
            if not fits:
                self._moves.drop(entry, OVERFLOW, notices)

    def collect(
        self,
        entries: list[Entry],
        event: Event,
        also_in: list[Entry] | None,
        notices: Notices,
        *,
        is_kept: bool,
    ) -> bool:
        """Put *event* into the lists, or drop it; returns whether it was accepted."""
        fits = self._room.has(1, event.size, reserve=False)
        is_extra = is_kept and not (fits or self._limits.reject)
        fits |= is_extra
        if not fits:
            is_modest = self._room.is_share(entries)
            is_modest &= not self._moves.traffic.is_refused(event.target)
            fits = self._make_room(event, notices, is_modest=is_modest)
        if not fits and self._limits.reject:
            return False
        entry = Entry(event)
        entry.is_extra = is_extra
        if fits:
            entries.append(entry)
            if also_in is not None:
                also_in.append(entry)
        self._moves.books.open([entry])
        if not fits:
            self._moves.drop(entry, OVERFLOW, notices)
        self.admit()
        return True

    def replace(self, entry: Entry, event: Event, notices: Notices) -> bool:
        """Let *entry* be *event*, if it can be; returns whether it is."""
        growth = max(0, event.size - entry.event.size)
        is_collected = entry.state is State.COLLECTED and entry.row is None
        if not (is_collected and self._room.has(0, growth, reserve=False)):
            return False
        notices.append(Notice(NoticeKind.DISCARDED, entry.event, REPLACED))
        self._reports.observe(Happened.DISCARDED, [entry], reason=REPLACED)
        self._moves.books.replace(entry, event)
        return True

    def coalesce(self, entries: list[Entry], notices: Notices) -> None:
        """Of the *entries* with the same slot, keep one, in the place of the first."""
        kept: dict[object, int] = {}
        for index, entry in enumerate(entries):
            slot = entry.slot
            if slot is None or entry.state not in (State.COLLECTED, State.OUTBOXED):
                continue
            place = kept.setdefault(slot, index)
            if place == index:
                continue
            if entry.event.properties.keep == "first":
                if entry.row is None:
                    self._moves.discard([entry], REPEATED, notices)
                continue
            entries[place], entries[index] = entry, entries[place]
            if entries[index].row is None:
                self._moves.discard([entries[index]], REPLACED, notices)

    def without_excess(
        self, entries: list[Entry], waiter: Waiter | None
    ) -> list[Entry]:
        """Drop what no commit has written, the newest first, until the limits hold."""
        extra = [e for e in entries if e.rare is not None and e.is_extra]
        if not extra:
            return entries
        notices = self._reports.deferred if waiter is None else waiter.notices
        while extra and not self._room.has(0, 0, reserve=True):
            self._moves.drop(extra.pop(), OVERFLOW, notices)
        return [entry for entry in entries if entry.state is State.COLLECTED]

    def _make_room(self, event: Event, notices: Notices, *, is_modest: bool) -> bool:
        """Make room for *event* according to ``OVERFLOW``; returns whether it fits."""
        while not self._room.has(1, event.size, reserve=is_modest):
            victim = self._overflow.victim(event, is_modest=is_modest)
            if victim is None:
                return False
            self._moves.drop(victim, OVERFLOW, notices)
        return True
