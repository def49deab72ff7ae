"""Moves events from one state to the next."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from .books import Books
from .broker_status import BrokerStatus
from .disk_index import DiskIndex
from .entries import (
    EXPIRED,
    OVERFLOW,
    Entry,
    Notice,
    NoticeKind,
    State,
    Waiter,
    empty,
    target_of,
)
from .limits import Limits, Room
from .observations import Happened
from .reports import Notices, Reports
from .timetable import Timetable
from .traffic import Traffic

#: The states of what no collector holds any more.
HANDED_OVER = (State.DELAYED, State.RETAINED, State.IN_FLIGHT, State.DEAD)


class Moves:
    """Changes the states of entries, and with them all that depends on the states.

    ================================  ==========================================
    new → collected                   ``Intake.collect``
    collected → retained, delayed     :meth:`hand_over`
    another process's → retained, …   :meth:`adopt`
    delayed → retained                :meth:`keep_time`, :meth:`end_delays`
    retained → in flight              ``Traffic.take``
    in flight → confirmed, unrouted   ``Settling.settle``
    in flight → retained, dead        ``Settling.settle``: :meth:`retain`, :meth:`die`
    dead → retained                   :meth:`try_again`
    collected → discarded             :meth:`discard`
    any → dropped                     :meth:`drop`
    any but in flight → outboxed      :meth:`leave`
    ================================  ==========================================

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float],
        broker: BrokerStatus,
        reports: Reports,
    ) -> None:
        self._clock = clock
        self._reports = reports
        self.books = Books()
        self.room = Room(limits, self.books)
        self.traffic = Traffic(limits, self.books, broker)
        self.timetable = Timetable()
        self.disk_index = DiskIndex(durable=limits.durable)
        self._sequences = itertools.count(1)
        #: In the order of their death. Those that were retried are skipped lazily.
        self._dead: deque[Entry] = deque()

    def rebuild(self) -> None:
        """Recompute everything derived from the states, after an interrupted step."""
        now = self._clock()
        self.books.rebuild()
        self.traffic.rebuild(now)
        dead = self.books.in_state(State.DEAD)
        self._dead = deque(entry for entry in dead if not entry.is_committed)
        handed_over = self.books.in_state(*HANDED_OVER)
        self.disk_index.rebuild(handed_over)
        self.timetable.rebuild((e for e in handed_over if not e.event.is_plain), now)

    def move(self, entry: Entry, state: State) -> None:
        """Change the entry's state and mark its row as outdated."""
        self.disk_index.change(entry, state)
        self.books.move(entry, state)

    # To be sent.

    def hand_over(self, collected: list[Entry], waiter: Waiter | None) -> None:
        """Let *collected* entries wait for the broker, behind all others."""
        now = self._clock()
        for entry in collected:
            entry.sequence = next(self._sequences)
            entry.handed_over_at = now
            if waiter is not None:
                entry.waiter = waiter
            entry.state = State.RETAINED
        self.books.moved(collected, State.COLLECTED, State.RETAINED)
        self.disk_index.open(collected)
        self._reports.observe(Happened.HANDED_OVER, collected)
        described = [entry for entry in collected if not entry.event.is_plain]
        if described and self._schedule(described, now):
            collected = [entry for entry in collected if entry.is_retained]
        for target, group in groupby(collected, target_of):
            self.traffic.lane(target).add_all(group)

    def adopt(self, entry: Entry, now: float) -> None:
        """Take over an entry that another process had handed over."""
        entry.sequence = next(self._sequences)
        entry.handed_over_at = now
        self.books.adopt(entry)
        self.disk_index.adopt(entry)
        if entry.state is State.DEAD:
            self._dead.append(entry)
        elif entry.event.is_plain or not self._schedule([entry], now):
            self.traffic.lane(entry.target).add(entry)
        self._reports.observe(Happened.ADOPTED, [entry], reason=entry.reason)

    def retain(self, entry: Entry, retry_at: float | None = None) -> None:
        """Let *entry* wait for its turn, and for *retry_at* if it is given."""
        self.move(entry, State.RETAINED)
        self.traffic.add(entry, retry_at)

    def try_again(self, entries: Iterable[Entry]) -> None:
        """Retain *entries*, and send them at once, as if none had been refused."""
        now = self._clock()
        for entry in entries:
            entry.reset_refusals()
            self.retain(entry)
            self.timetable.add(entry, now)
            self.traffic.lane(entry.target).reopen()
            self._reports.observe(Happened.RETRIED, [entry])

    # Time.

    def _schedule(self, entries: Iterable[Entry], now: float) -> bool:
        """Watch the time of *entries*; returns whether any of them is delayed."""
        any_is_delayed = False
        for entry in entries:
            if entry.event.due_in:
                self.move(entry, State.DELAYED)
                any_is_delayed = True
            self.timetable.add(entry, now)
        return any_is_delayed

    def keep_time(self, now: float) -> None:
        """Retain the delayed entries that are due, and drop what has expired."""
        for entry in self.timetable.take_expired(now):
            self.drop(entry, EXPIRED, self._reports.notices_of(entry))
        for entry in self.timetable.take_due(now):
            self.retain(entry)
        self.timetable.forget_ended(self.books.count(*HANDED_OVER))

    def end_delays(self) -> int:
        """Retain all delayed entries; returns how many."""
        delayed = self.books.in_state(State.DELAYED)
        for entry in delayed:
            self.retain(entry)
        return len(delayed)

    # Not to be sent any more.

    def discard(self, entries: list[Entry], reason: str, into: Notices | None) -> int:
        """Discard what is collected of a collector's *entries*; returns how many."""
        notices = self._reports.deferred if into is None else into
        collected = [entry for entry in entries if entry.state is State.COLLECTED]
        for entry in collected:
            notices.append(Notice(NoticeKind.DISCARDED, entry.event, reason))
            self.books.move(entry, State.DISCARDED)
        self._reports.observe(Happened.DISCARDED, collected, reason=reason)
        empty(entries, collected)
        return len(collected)

    def drop(self, entry: Entry, reason: str, notices: Notices) -> None:
        """Drop *entry*, whatever its state is."""
        # Noted first: interrupted in between, it is noted twice rather than never.
        notices.append(
            Notice(NoticeKind.DROPPED, entry.event, reason, attempt=entry.attempts)
        )
        was_retained = entry.is_retained
        if entry.state is State.IN_FLIGHT:
            lane = self.traffic.lane(entry.target)
            lane.landed(1, entry.event.size, self._clock())
            self.traffic.suspects.settled(entry)
        self.move(entry, State.DROPPED)
        if was_retained:
            self.traffic.departed(entry.target)
        self._reports.observe(Happened.DROPPED, [entry], reason=reason)
        if entry.waiter is not None:
            entry.waiter.resolve(entry)

    def drop_each(
        self, entries: Sequence[Entry], reason: str, into: Notices | None = None
    ) -> int:
        """Drop *entries*; returns how many."""
        notices = self._reports.deferred if into is None else into
        for entry in entries:
            self.drop(entry, reason, notices)
        return len(entries)

    def die(self, entry: Entry) -> None:
        """Dead-letter *entry*; if there are too many dead ones, drop the oldest.

        None of the outbox, whose store leaves them to their rows instead.
        """
        self.move(entry, State.DEAD)
        self._reports.observe(Happened.DEAD, [entry], reason=entry.reason)
        if entry.is_committed:
            return
        self._dead.append(entry)
        # No more than it replaces, since adopted ones may exceed the limit.
        freed = 0
        while freed <= entry.event.size and self.room.has_too_many_dead():
            if len(self._dead) == 1:
                break
            oldest = self._dead.popleft()
            if oldest.state is State.DEAD:
                freed += oldest.event.size + 1
                self.drop(oldest, OVERFLOW, self._reports.deferred)

    def leave(self, entries: Sequence[Entry]) -> None:
        """Leave *entries* to whichever process holds their rows of the outbox."""
        self.traffic.remove({entry for entry in entries if entry.is_retained})
        for entry in entries:
            # Otherwise its row would be erased.
            entry.row = None
            self.move(entry, State.OUTBOXED)
            if entry.waiter is not None:
                entry.waiter.resolve(entry)
        self._reports.observe(Happened.OUTBOXED, entries)
