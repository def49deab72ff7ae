"""The state of each event of this process, guarded by one lock."""

from __future__ import annotations

import functools
import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableSequence,
    Sequence,
)
from contextlib import contextmanager
from itertools import groupby
from operator import attrgetter
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..events import (
    BrokerState,
    DeadEvent,
    Event,
    Outcome,
    PublishResult,
    Stats,
    Target,
)
from .books import Books
from .broker_status import BrokerStatus
from .disk_index import DiskIndex, Write
from .entries import (
    ABANDONED,
    EXPIRED,
    OVERFLOW,
    PURGED,
    REPEATED,
    REPLACED,
    BrokerChange,
    Entry,
    Notice,
    NoticeKind,
    Settlement,
    State,
    Waiter,
)
from .lanes import Lane
from .limits import Limits, Room
from .observations import Happened, Observations
from .overflow import Overflow
from .problems import Problems
from .refusals import Refusal, Refusals
from .signal import Broadcast
from .threads import holds
from .timetable import Timetable
from .traffic import SILENCE, Traffic

P = ParamSpec("P")
R = TypeVar("R")

#: Where a step puts its notices.
Notices = MutableSequence[Notice]

#: How many events may be recorded without the lock at a time, and the size of each in
#: bytes. With many threads, the limits may briefly be exceeded by that much.
_MOST_ARRIVALS, _SMALL = 64, 16 * 1024

_target_of = attrgetter("event.target")
_handed_over_at = attrgetter("handed_over_at")
_HANDED_OVER = (State.DELAYED, State.RETAINED, State.IN_FLIGHT, State.DEAD)


def step(
    method: Callable[Concatenate[Ledger, P], R],
) -> Callable[Concatenate[Ledger, P], R]:
    """Run *method* under the lock, as one step.

    A worker that is asked to stop may raise ``SystemExit`` between any two bytecodes of
    its main thread. After an interrupted step, everything is rebuilt from the entries.

    A destructor may run at any allocation of a step, and a signal handler between any
    two of its bytecodes, in the same thread. They must not change a half-changed state:
    the methods in :data:`_POSTPONED` are carried out by the next step, all others only
    read.
    """

    @functools.wraps(method)
    def locked(self: Ledger, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if holds(self._lock):
            return self._in_the_middle(method, args, kwargs)
        with self._lock:
            try:
                if self._arrivals or self._postponed:
                    self._catch_up()
                return method(self, *args, **kwargs)
            except BaseException:
                self._rebuild()
                raise

    return locked


class _Watched(weakref.ref[object]):
    """An owner of entries, which may be deleted, with the list of its entries."""

    __slots__ = ("entries", "reason")

    entries: list[Entry]
    #: Why they are discarded then.
    reason: str


class Ledger:
    """The state of every event that this process holds, and the books.

    Every public method is one step under the lock: it takes microseconds, does no I/O
    and calls no outside code. Notices are recorded: for the caller that waits for the
    event, otherwise for the caller of :meth:`take_deferred`. A caller that dispatches
    the notices of its own step passes a list *into*, which has them even if the step is
    interrupted.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        is_heard: Callable[[], bool] = lambda: True,
        observations: Observations | None = None,
    ) -> None:
        self.limits = limits
        self._clock = clock
        #: Whether notices of confirmed events are needed.
        self._is_heard = is_heard
        #: What the observers are told; ``None``: there are none.
        self._observations = observations
        self._lock = threading.RLock()
        self._changed = Broadcast(clock)
        self._books = Books()
        self._room = Room(limits, self._books)
        self._broker = BrokerStatus(clock)
        self._traffic = Traffic(limits, self._books, self._broker)
        self._problems = Problems(self._traffic, self._broker, clock)
        self._overflow = Overflow(limits, self._room, self._traffic, self._broker)
        self._sequences = itertools.count(1)
        self._refusals = Refusals()
        self._timetable = Timetable()
        #: In the order of their death. Those that were retried are skipped lazily.
        self._dead: deque[Entry] = deque()
        self._waiters: set[Waiter] = set()
        self._disk_index = DiskIndex(durable=limits.durable)
        #: Notices that no caller is waiting for; the flusher dispatches them.
        self._deferred: deque[Notice] = deque()
        #: How many events may be collected without the lock.
        self._admitted = 0
        #: Collected entries that are not in the books yet.
        self._arrivals: deque[Entry] = deque()
        #: Calls that were postponed in the middle of a step.
        self._postponed: deque[Callable[[], object]] = deque()
        self._owners: set[_Watched] = set()
        #: The owners that are gone.
        self._abandoned: deque[_Watched] = deque()

    @property
    def is_in_step(self) -> bool:
        """Whether this thread is in the middle of a step, so that it must not wait."""
        return holds(self._lock)

    # The collector's side.

    def collect(
        self,
        entries: list[Entry],
        event: Event,
        *,
        also_in: list[Entry] | None = None,
        is_kept: bool = False,
        into: Notices | None = None,
    ) -> bool:
        """Put *event* into a collector's *entries*, and a transaction's list *also_in*.

        Returns whether it was accepted: ``OVERFLOW="reject"`` may reject it.

        *is_kept*: a commit is expected to write it into the outbox. Until then, it may
        exceed the limits.

        Unless a limit is near, this takes no lock: the event is recorded, and the next
        step enters it into the books.
        """
        small = event.size <= _SMALL and len(self._arrivals) < self._admitted
        if small or self.is_in_step:
            entry = Entry(event)
            # It gets its owner first: after an interruption here, it would have none.
            entries.append(entry)
            if also_in is not None:
                also_in.append(entry)
            self._arrivals.append(entry)
            return True
        notices = self._deferred if into is None else into
        return self._collect(entries, event, also_in, notices, is_kept=is_kept)

    @step
    def _collect(
        self,
        entries: list[Entry],
        event: Event,
        also_in: list[Entry] | None,
        notices: Notices,
        *,
        is_kept: bool,
    ) -> bool:
        fits = self._room.has(1, event.size, reserve=False)
        is_extra = is_kept and not (fits or self.limits.reject)
        fits |= is_extra
        if not fits:
            is_modest = self._room.is_share(entries)
            is_modest &= not self._traffic.is_refused(event.target)
            fits = self._make_room(event, notices, is_modest=is_modest)
        if not fits and self.limits.reject:
            return False
        entry = Entry(event)
        entry.is_extra = is_extra
        if fits:
            entries.append(entry)
            if also_in is not None:
                also_in.append(entry)
        self._books.open([entry])
        if not fits:
            self._drop(entry, OVERFLOW, notices)
        self._admit()
        return True

    def replace(self, entry: Entry, event: Event, *, into: Notices) -> bool:
        """Let *entry* be *event* from now on, and discard its former one.

        Returns whether it was: it must be collected, not be written, and there must be
        room for a larger event.
        """
        return not self.is_in_step and self._replace(entry, event, into)

    @step
    def _replace(self, entry: Entry, event: Event, notices: Notices) -> bool:
        growth = max(0, event.size - entry.event.size)
        is_collected = entry.state is State.COLLECTED and entry.row is None
        if not (is_collected and self._room.has(0, growth, reserve=False)):
            return False
        notices.append(Notice(NoticeKind.DISCARDED, entry.event, REPLACED))
        self._observe(Happened.DISCARDED, [entry], reason=REPLACED)
        self._books.replace(entry, event)
        return True

    def coalesce(self, entries: list[Entry], *, into: Notices) -> None:
        """Of the *entries* with the same slot, keep one, in the place of the first.

        The others are discarded. Those that a transaction has written are kept.
        """
        if not self.is_in_step:
            self._coalesce(entries, into)

    @step
    def _coalesce(self, entries: list[Entry], notices: Notices) -> None:
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
                    self._discard([entry], REPEATED, notices)
                continue
            entries[place], entries[index] = entry, entries[place]
            if entries[index].row is None:
                self._discard([entries[index]], REPLACED, notices)

    def _admit(self) -> None:
        """Compute how many may be collected without the lock.

        Needed wherever more is held than before. If less is, it allows too few, until a
        collector that exceeds it takes the lock.
        """
        self._admitted = self._room.for_arrivals(_MOST_ARRIVALS, _SMALL)

    @step
    def collected(self, entries: list[Entry]) -> tuple[Event, ...]:
        """The events in a collector's *entries*."""
        return tuple(e.event for e in entries if e.state is State.COLLECTED)

    @step
    def still_collected(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those of *entries* that a collector still holds."""
        return [entry for entry in entries if entry.state is State.COLLECTED]

    @step
    def discard(
        self, entries: list[Entry], reason: str, *, into: Notices | None = None
    ) -> int:
        """Discard what a collector holds; returns how many events."""
        return self._discard(entries, reason, into)

    def watch(
        self, owner: object, entries: list[Entry], reason: str = ABANDONED
    ) -> None:
        """Discard *entries* once *owner* is deleted; takes no lock.

        The owner is a collector, or a transaction of the application.

        It may be deleted at any moment, even while its thread holds the lock. What is
        called then is not Python code, in which an exception of a signal handler would
        be lost. :meth:`discard_abandoned` does the rest.
        """
        watched = _Watched(owner, self._abandoned.append)
        watched.entries, watched.reason = entries, reason
        self._owners.add(watched)

    @step
    def discard_abandoned(self, *, into: Notices | None = None) -> None:
        """Discard what deleted owners held."""
        while self._abandoned:
            watched = self._abandoned[0]
            self._discard(watched.entries, watched.reason, into)
            self._owners.discard(watched)
            self._abandoned.popleft()

    @step
    def discard_collected(self, reason: str, *, into: Notices | None = None) -> None:
        """Discard everything that was collected but not handed over."""
        self._discard(self._books.in_state(State.COLLECTED), reason, into)

    @step
    def hand_over(self, entries: list[Entry], waiter: Waiter | None = None) -> None:
        """Empty a collector: its events now wait for the broker."""
        now = self._clock()
        collected = [entry for entry in entries if entry.state is State.COLLECTED]
        if waiter is not None:
            # First: an interrupted caller releases those that are in here.
            waiter.entries += collected
            waiter.outboxed = [e.state for e in entries].count(State.OUTBOXED)
        collected = self._without_excess(collected, waiter)
        for entry in collected:
            entry.sequence = next(self._sequences)
            entry.handed_over_at = now
            if waiter is not None:
                entry.waiter = waiter
            entry.state = State.RETAINED
        self._books.moved(collected, State.COLLECTED, State.RETAINED)
        self._disk_index.open(collected)
        self._observe(Happened.HANDED_OVER, collected)
        described = [entry for entry in collected if not entry.event.is_plain]
        if described and self._schedule(described, now):
            collected = [entry for entry in collected if entry.is_retained]
        for target, group in groupby(collected, _target_of):
            self._traffic.lane(target).add_all(group)
        entries.clear()
        if waiter is not None:
            self._begin_waiting(waiter)

    def _without_excess(
        self, entries: list[Entry], waiter: Waiter | None
    ) -> list[Entry]:
        """Drop what no commit has written, the newest first, until the limits hold."""
        notices = self._deferred if waiter is None else waiter.notices
        for entry in reversed(entries):
            is_extra = entry.rare is not None and entry.is_extra
            if is_extra and not self._room.has(0, 0, reserve=True):
                self._drop(entry, OVERFLOW, notices)
        return [entry for entry in entries if entry.state is State.COLLECTED]

    # Notices that no caller is waiting for.

    def defer(self, notices: Iterable[Notice]) -> None:
        """Leave *notices* for :meth:`take_deferred`; takes no lock."""
        self._deferred.extend(notices)

    @step
    def take_deferred(self, into: Notices) -> None:
        """Move the deferred notices *into* a list."""
        for _ in range(len(self._deferred)):
            into.append(self._deferred[0])
            # Afterwards: interrupted in between, it is taken once more.
            self._deferred.popleft()

    @step
    def take_broker_change(self) -> BrokerChange | None:
        """Take the oldest change of the broker's state that is not reported yet."""
        return self._broker.take_change()

    @property
    def has_deferred(self) -> bool:
        """Whether there are deferred notices; takes no lock."""
        return bool(self._deferred)

    @property
    def is_connected(self) -> bool:
        """Whether the broker is connected; takes no lock, so it may be late."""
        return self._broker.state.is_connected

    @property
    def needs_connection(self) -> bool:
        """Whether events wait for a connection; takes no lock, so it may be late."""
        return not self.is_connected and bool(self._undelivered())

    # Called by publish() and flush(), which wait.

    @step
    def stop_waiting(self, waiter: Waiter, *, ran_out: bool) -> PublishResult:
        """Release *waiter*: the flusher reports what happens to its events later."""
        self._waiters.discard(waiter)
        if ran_out:
            self._broker.stalled |= self._waited_in_vain(waiter)
        for entry in waiter.entries:
            entry.waiter = None
            obstacle = self._problems.obstacle(entry)
            if obstacle:
                self._observe(
                    Happened.FAILED, [entry], reason=obstacle, caller=waiter.caller
                )
                self._note_failure(entry, obstacle, None, waiter.notices)
        return waiter.result(self._problems.among(waiter.entries))

    def wait_until_flushed(self, deadline: float) -> bool:
        """Wait until nothing is in flight or retained, at most until *deadline*.

        Returns early once the broker has refused everything that is left.
        """
        if not self.is_in_step:
            self._changed.wait_for(self.is_at_rest, deadline)
        return not self.undelivered()

    @step
    def is_at_rest(self) -> bool:
        """Whether nothing is left, or the broker has refused all that is left."""
        if not self._undelivered():
            return True
        if self._books.count(State.IN_FLIGHT):
            return False
        if self._broker.is_final:
            return True
        if self._disk_index.unadopted.keys() - self._traffic.lanes.keys():
            # The adopter is about to read more events of a dead process.
            return False
        ready = self._broker.state is BrokerState.READY
        return ready and self._traffic.is_resting

    # Called by the broker.

    @step
    def take(self, limit: int) -> list[Entry]:
        """Take the events that may be sent now, in each target's order."""
        now, taken = self._clock(), list[Entry]()
        if self._timetable:
            self._keep_time(now)
        try:
            self._traffic.take(taken, limit, now)
            self._observe_sending(taken, now)
            return taken
        except BaseException:
            # The broker never receives them, so it would never settle them.
            for entry in taken:
                entry.state = State.RETAINED
            raise

    @step
    def settle(self, settlements: Iterable[Settlement]) -> bool:
        """Record outcomes; returns whether more could be sent now."""
        now = self._clock()
        for are_confirms, group in groupby(settlements, _is_confirm):
            if are_confirms and self._traffic.suspects.alone is None:
                self._confirm([settlement.entry for settlement in group], now)
                continue
            for settlement in group:
                if settlement.entry.state is State.IN_FLIGHT:
                    self._settle(settlement, now)
        self._changed.wake_all()
        if not self._books.count(State.RETAINED):
            return False
        return self._traffic.is_due(now)

    @step
    def on_state_change(
        self, state: BrokerState, error: str = "", *, final: bool = False
    ) -> None:
        """Record the broker's state; release callers that would wait in vain.

        *final*: no other state will follow. Nothing replaces ``CLOSED``.
        """
        if self._broker.state is BrokerState.CLOSED:
            return
        if state is BrokerState.DOWN:
            self._give_back(error)
        elif state is BrokerState.READY and not self._broker.state.is_connected:
            self._traffic.reopen()
        self._broker.change(state, error, final=final)
        for waiter in self._waiters:
            if not self._worth_waiting(waiter):
                waiter.give_up()
        self._changed.wake_all()

    # Called by the flusher and by the application.

    @step
    def reopen(self) -> None:
        """Allow all waiting events to be retried at once."""
        self._traffic.reopen()

    @step
    def due(self) -> float | None:
        """Seconds until an event could be sent; ``None``: waiting alone won't help."""
        now = self._clock()
        due = self._traffic.due(now)
        return None if due is None else max(0.0, due - now)

    @property
    def is_timed(self) -> bool:
        """Whether time changes something; takes no lock."""
        return bool(self._timetable)

    @step
    def keep_time(self) -> float:
        """Retain the delayed events that are due, and drop those that have expired.

        Returns the seconds until the next ones; infinite: there are none.
        """
        self._keep_time(self._clock())
        return self._timetable.next_at - self._clock()

    @step
    def end_delays(self) -> int:
        """Retain all delayed events, as if they were due; returns how many."""
        delayed = self._books.in_state(State.DELAYED)
        for entry in delayed:
            self._retain(entry)
        return len(delayed)

    @step
    def states(self, ids: Iterable[str]) -> dict[str, State]:
        """The states of those of the events with *ids* that are held, by id."""
        return {entry.event.id: entry.state for entry in self._books.select(ids)}

    @step
    def dead(self) -> tuple[DeadEvent, ...]:
        """The dead-lettered events."""
        dead = self._books.in_state(State.DEAD)
        return tuple(DeadEvent(e.event, e.reason, e.attempts) for e in dead)

    @step
    def handed_over(self) -> list[Entry]:
        """The entries that are handed over, dead ones too, oldest first.

        Takes time for each.
        """
        return self._books.in_state(*_HANDED_OVER)

    @step
    def retry(self, ids: Iterable[str] | None) -> int:
        """Retain dead events in their original positions; returns how many.

        Those of the outbox are left to whichever process claims their rows.
        """
        dead = [e for e in self._books.select(ids) if e.state is State.DEAD]
        self._try_again(entry for entry in dead if not entry.is_committed)
        committed = [entry for entry in dead if entry.is_committed]
        for entry in committed:
            self._move(entry, State.OUTBOXED)
        self._observe(Happened.OUTBOXED, committed)
        return len(dead)

    @step
    def redirect(self, ids: Iterable[str], queue: str) -> int:
        """Retain events that are dead or waiting for *queue*; returns how many.

        There, they have the positions that they had at their former target. Those that
        are delayed remain so.
        """
        idle = self._idle(ids)
        self._traffic.remove({entry for entry in idle if entry.is_retained})
        for entry in idle:
            # Their rows have the former target.
            self._disk_index.outdate(entry)
            self._refusals.forget(entry)
            entry.redirect(queue)
        self._try_again(e for e in idle if e.state is not State.DELAYED)
        return len(idle)

    @step
    def purge(self, ids: Iterable[str], *, into: Notices | None = None) -> int:
        """Drop events that are dead or waiting; returns how many."""
        ours = [entry for entry in self._idle(ids) if self._overflow.may_drop(entry)]
        return self._drop_each(ours, PURGED, into)

    @step
    def drop_all(
        self,
        reason: str,
        *,
        among: Iterable[Entry] | None = None,
        into: Notices | None = None,
    ) -> int:
        """Drop everything handed over that is neither confirmed nor on disk.

        :param among: only these, if any are given.
        :returns: how many events were dropped.
        """
        if among is None:
            among = self._books.in_state(*_HANDED_OVER)
        left = [e for e in among if e.state in _HANDED_OVER and not e.is_stored]
        return self._drop_each(left, reason, into)

    # Called by a store on disk.

    @property
    def unerased(self) -> int:
        """How many rows no longer reflect their events; takes no lock."""
        return self._disk_index.unerased

    @contextmanager
    def writing(
        self,
        journal: object,
        wanted: Iterable[Entry] = (),
        *,
        overdue_after: float | None = None,
        limit: int = 0,
    ) -> Iterator[Write]:
        """One transaction on the file *journal*; the block writes what it is given.

        That is: the *wanted* entries that are not on disk; of the others, the *limit*
        oldest that were handed over at least *overdue_after* seconds ago; and the rows
        in the file that must be updated or erased. If the block raises, nothing counts
        as written, and the next transaction gets all of it again.
        """
        write = self._begin_write(journal, wanted, overdue_after, limit)
        try:
            yield write
        except BaseException:
            self._end_write(write, written=False)
            raise
        self._end_write(write, written=True)

    @step
    def has_overdue(self, seconds: float) -> bool:
        """Whether an event is not on disk *seconds* after it was handed over."""
        return bool(self._disk_index.oldest(self._clock() - seconds, 1))

    @step
    def unstored(self) -> int:
        """How many handed-over events are not on disk."""
        return self._disk_index.unstored

    @step
    def lost(self, journal: object) -> None:
        """The file *journal* is lost: its entries are in memory only."""
        self._disk_index.lose(journal, self._books.in_state(*_HANDED_OVER))

    @step
    def adopt(
        self,
        entries: Iterable[Entry],
        unadopted: Mapping[Target | None, int],
        source: object = None,
    ) -> list[Entry]:
        """Take over events that another process had handed over, in their order.

        Returns the *entries* that this process holds already. They are not adopted,
        and their rows must be erased. *unadopted* counts what is still to be adopted
        from the same *source*, by target; ``None``: the target is unknown.
        """
        self._disk_index.note_unadopted(source, unadopted)
        now, duplicates = self._clock(), []
        for entry in entries:
            if entry.event in self._books:
                entry.state = State.DISCARDED
                self._disk_index.outdate(entry)
                duplicates.append(entry)
                continue
            entry.sequence = next(self._sequences)
            entry.handed_over_at = now
            self._books.adopt(entry)
            self._disk_index.adopt(entry)
            if entry.state is State.DEAD:
                self._dead.append(entry)
            elif entry.event.is_plain or not self._schedule([entry], now):
                self._traffic.lane(entry.target).add(entry)
            self._observe(Happened.ADOPTED, [entry], reason=entry.reason)
        self._admit()
        self._changed.wake_all()
        return duplicates

    @step
    def drop_unadopted(
        self,
        entries: Iterable[Entry],
        reason: str,
        unadopted: Mapping[Target | None, int],
    ) -> None:
        """Take over events that another process had handed over, only to drop them."""
        self._disk_index.note_unadopted(None, unadopted)
        new = [entry for entry in entries if entry.event not in self._books]
        for entry in new:
            self._books.adopt(entry)
        self._observe(Happened.ADOPTED, new)
        self._drop_each(new, reason)

    @step
    def leave(self, entries: Iterable[Entry]) -> list[Entry]:
        """Leave events to whichever process holds their rows of the outbox.

        Returns those of *entries* that were left: none that is in flight or has ended.
        """
        left = [e for e in entries if e.state.alive and e.state is not State.IN_FLIGHT]
        self._traffic.remove({entry for entry in left if entry.is_retained})
        for entry in left:
            # Otherwise its row would be erased.
            entry.row = None
            self._move(entry, State.OUTBOXED)
            if entry.waiter is not None:
                entry.waiter.resolve(entry)
        self._observe(Happened.OUTBOXED, left)
        self._changed.wake_all()
        return left

    @step
    def held_up(self) -> set[Target]:
        """The targets that confirm nothing: they refuse events, or are silent."""
        return self._traffic.held_up()

    @step
    def has_too_many_dead(self) -> bool:
        """Whether the dead events exceed their limit."""
        return self._room.has_too_many_dead()

    @step
    def free(self) -> tuple[int, int]:
        """How many more events, and bytes, of dead processes the limits allow."""
        return self._room.to_adopt()

    @step
    def free_for_rows(self) -> tuple[int, int]:
        """How many more rows of the outbox, and bytes, may be in memory."""
        return self._room.for_rows()

    @step
    def undelivered(self) -> int:
        """How many events are in flight, retained, or left by dead processes."""
        return self._undelivered()

    @step
    def stats(self) -> Stats:
        """The books, as one consistent snapshot."""
        return Stats(
            **self._books.as_dict(),
            **self._disk_index.as_dict(self._books.count(*_HANDED_OVER)),
            broker=self._broker.shown,
            broker_error=self._broker.error,
        )

    @step
    def problems(self) -> dict[str, Any]:
        """The fields of :class:`~flask_eventcollector.Stats` about single targets."""
        return self._problems.as_dict()

    @step
    def refusals(self, journal: object, known: int) -> tuple[int, list[Refusal]]:
        """The last refusals of waiting events in the file *journal*.

        Returns their version first. If it is *known*, there is nothing new.
        """
        self._refusals.forget_ended()
        version = self._refusals.version
        if version == known:
            return known, []
        return version, self._refusals.of(journal, self._clock())

    @step
    def _begin_write(
        self,
        journal: object,
        wanted: Iterable[Entry],
        overdue_after: float | None,
        limit: int,
    ) -> Write:
        index, overdue = self._disk_index, list[Entry]()
        if overdue_after is not None:
            overdue = index.oldest(self._clock() - overdue_after, limit)
        new = index.assign(dict.fromkeys([*wanted, *overdue]), journal)
        return Write(new, index.take_outdated(journal), more=len(overdue) == limit > 0)

    @step
    def _end_write(self, write: Write, *, written: bool) -> None:
        if written:
            self._disk_index.stored(write.new)
        else:
            for entry in write.outdated:
                self._disk_index.outdate(entry)

    # Below here, the lock is held: work that was recorded without it.

    def _catch_up(self) -> None:
        """Carry out what was recorded without the lock, or in the middle of a step."""
        arrivals = list(self._arrivals)
        if arrivals:
            self._arrive([e for e in arrivals if e.state is State.DISCARDED])
        for _ in arrivals:
            # Removed afterwards: after an interruption, they are repeated, which has
            # no effect.
            self._arrivals.popleft()
        while self._postponed:
            # Each may be repeated, since it checks the entries' states.
            self._postponed[0]()
            self._postponed.popleft()
        self._admit()

    def _arrive(self, entries: list[Entry]) -> None:
        if self._room.has(len(entries), len(entries) * _SMALL, reserve=True):
            self._books.open(entries)
            return
        for entry in entries:
            fits = self._make_room(entry.event, self._deferred, is_modest=True)
            self._books.open([entry])
            if not fits:
                self._drop(entry, OVERFLOW, self._deferred)

    def _in_the_middle(
        self, method: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> R:
        if method.__name__ not in _POSTPONED:
            return method(self, *args, **kwargs)
        if method.__name__ != "take":
            # By then, nobody reads the caller's list.
            later = {name: kwargs[name] for name in kwargs if name != "into"}
            self._postponed.append(functools.partial(method, self, *args, **later))
        result: R = _POSTPONED[method.__name__]()
        return result

    # Limits and final states.

    def _make_room(self, event: Event, notices: Notices, *, is_modest: bool) -> bool:
        """Make room for *event* according to ``OVERFLOW``; returns whether it fits."""
        while not self._room.has(1, event.size, reserve=is_modest):
            victim = self._overflow.victim(event, is_modest=is_modest)
            if victim is None:
                return False
            self._drop(victim, OVERFLOW, notices)
        return True

    def _discard(self, entries: list[Entry], reason: str, into: Notices | None) -> int:
        notices = self._deferred if into is None else into
        collected = [entry for entry in entries if entry.state is State.COLLECTED]
        for entry in collected:
            notices.append(Notice(NoticeKind.DISCARDED, entry.event, reason))
            self._books.move(entry, State.DISCARDED)
        self._observe(Happened.DISCARDED, collected, reason=reason)
        entries.clear()
        return len(collected)

    def _drop_each(
        self, entries: list[Entry], reason: str, into: Notices | None = None
    ) -> int:
        notices = self._deferred if into is None else into
        for entry in entries:
            self._drop(entry, reason, notices)
        self._changed.wake_all()
        return len(entries)

    def _drop(self, entry: Entry, reason: str, notices: Notices) -> None:
        # Noted first: interrupted in between, it is noted twice rather than never.
        notices.append(
            Notice(NoticeKind.DROPPED, entry.event, reason, attempt=entry.attempts)
        )
        if entry.state is State.IN_FLIGHT:
            lane = self._traffic.lane(entry.target)
            lane.landed(1, entry.event.size, self._clock())
            self._traffic.suspects.settled(entry)
        self._move(entry, State.DROPPED)
        self._observe(Happened.DROPPED, [entry], reason=reason)
        if entry.waiter is not None:
            entry.waiter.resolve(entry)

    # Sending and settling.

    def _observe(
        self,
        what: Happened,
        entries: Sequence[Entry],
        now: float | None = None,
        *,
        reason: str = "",
        outcome: Outcome | None = None,
        caller: object = None,
    ) -> None:
        if self._observations is not None:
            self._observations.note(
                what, entries, now, reason=reason, outcome=outcome, caller=caller
            )

    def _observe_sending(self, entries: Sequence[Entry], now: float) -> None:
        if self._observations is None:
            return
        if self._observations.caller is not None:
            for entry in entries:
                entry.caller = None if entry.waiter is None else entry.waiter.caller
        for _, group in groupby(entries, _target_of):
            self._observe(Happened.SENT, [*group], now)

    def _move(self, entry: Entry, state: State) -> None:
        """Change the entry's state and mark its row as outdated."""
        self._disk_index.change(entry, state)
        self._books.move(entry, state)

    def _retain(self, entry: Entry, retry_at: float | None = None) -> None:
        self._move(entry, State.RETAINED)
        self._traffic.add(entry, retry_at)

    def _schedule(self, entries: Iterable[Entry], now: float) -> bool:
        """Watch the time of *entries*; returns whether any of them is delayed."""
        any_is_delayed = False
        for entry in entries:
            if entry.event.due_in:
                self._move(entry, State.DELAYED)
                any_is_delayed = True
            self._timetable.add(entry, now)
        return any_is_delayed

    def _keep_time(self, now: float) -> None:
        for entry in self._timetable.take_expired(now):
            self._drop(entry, EXPIRED, self._notices_of(entry))
        for entry in self._timetable.take_due(now):
            self._retain(entry)

    def _idle(self, ids: Iterable[str]) -> list[Entry]:
        """Those of the events with *ids* that are dead or waiting."""
        idle = (State.DEAD, State.DELAYED, State.RETAINED)
        return [entry for entry in self._books.select(ids) if entry.state in idle]

    def _try_again(self, entries: Iterable[Entry]) -> None:
        """Retain *entries*, and send them at once, as if none had been refused."""
        now = self._clock()
        for entry in entries:
            entry.reset_refusals()
            self._retain(entry)
            self._timetable.add(entry, now)
            self._traffic.lane(entry.target).reopen()
            self._observe(Happened.RETRIED, [entry])
        self._admit()

    def _settle(self, settlement: Settlement, now: float) -> None:
        entry = settlement.entry
        if settlement.outcome is Outcome.CONFIRMED or settlement.is_discarded:
            self._traffic.suspects.settled(entry)
            entry.reason = settlement.reason
            self._confirm([entry], now, unrouted=settlement.is_discarded)
            return
        lane = self._traffic.lane(entry.target)
        lane.landed(1, entry.event.size, now)
        if self._traffic.suspects.settled(entry):
            settlement = settlement.alone()
        elif settlement.suspect and self._traffic.suspects.alone is None:
            entry.is_suspect = True
        outcome = settlement.outcome
        entry.reason = settlement.reason
        lane.failed(entry, settlement.reason)
        if outcome is not None or settlement.reason:
            self._observe(
                Happened.FAILED,
                [entry],
                now,
                reason=settlement.reason,
                outcome=outcome,
            )
        if outcome is None:
            self._not_sent(settlement, now)
        elif outcome is Outcome.UNKNOWN:
            self._unknown(settlement, now)
        else:
            self._refused(settlement, lane, now)
        if entry.waiter is not None:
            entry.waiter.settled(settlement)
        self._traffic.forget_if_idle(entry.target)

    def _give_back(self, reason: str) -> None:
        """Settle the events in flight as *unknown*, since the broker is unreachable.

        The broker should have settled them, but may have failed to.
        """
        now = self._clock()
        for entry in self._books.in_state(State.IN_FLIGHT):
            self._settle(Settlement(entry, Outcome.UNKNOWN, reason), now)

    def _confirm(
        self, entries: Iterable[Entry], now: float, *, unrouted: bool = False
    ) -> None:
        """The broker has confirmed *entries*, regardless of earlier settlements.

        *unrouted*: no queue gets them, which the settings allow.
        """
        is_heard = self._is_heard()
        state = State.UNROUTED if unrouted else State.CONFIRMED
        for target, group in groupby(entries, _target_of):
            confirmed = []
            for entry in group:
                if entry.state is not State.IN_FLIGHT:
                    continue
                confirmed.append(entry)
                if unrouted:
                    self._notice(entry, NoticeKind.UNROUTED)
                elif is_heard:
                    entry.reason = ""
                    elapsed = now - entry.handed_over_at
                    self._notice(entry, NoticeKind.PUBLISHED, elapsed=elapsed)
                if entry.row is not None:
                    self._disk_index.outdate(entry)
                entry.state = state
                if entry.waiter is not None:
                    entry.waiter.resolve(entry)
            if confirmed:
                size = self._books.moved(confirmed, State.IN_FLIGHT, state)
                self._disk_index.end(confirmed)
                self._broker.confirmed(now, confirmed[-1].sent_at)
                lane = self._traffic.lane(target)
                lane.landed(len(confirmed), size, now)
                lane.confirmed(len(confirmed), now)
                if self._observations is not None:
                    what = Happened.UNROUTED if unrouted else Happened.CONFIRMED
                    for _, together in groupby(confirmed, _handed_over_at):
                        self._observe(what, [*together], now)
                self._traffic.forget_if_idle(target)

    def _not_sent(self, settlement: Settlement, now: float) -> None:
        entry = settlement.entry
        entry.attempts -= 1
        if settlement.reason:
            self._failed(entry)
        self._retain(entry)
        if settlement.back_off:
            self._back_off(settlement, now)

    def _unknown(self, settlement: Settlement, now: float) -> None:
        entry = settlement.entry
        entry.possible_duplicate = True
        self._failed(entry, Outcome.UNKNOWN)
        self._retain(entry, settlement.retry_at(now))
        if settlement.back_off:
            self._back_off(settlement, now)

    def _refused(self, settlement: Settlement, lane: Lane, now: float) -> None:
        entry = settlement.entry
        self._broker.stalled = False
        entry.possible_duplicate |= settlement.possibly_taken
        entry.refused(now, self._broker.seconds())
        if settlement.final or self._refused_too_long(entry):
            self._notice(entry, NoticeKind.DEAD, settlement.outcome)
            self._die(entry)
            return
        self._failed(entry, settlement.outcome)
        retry_at = settlement.retry_at(now)
        refused_alone = entry.refusals > 1 and lane.confirmed_since(entry.refused_at)
        if refused_alone and retry_at is None:
            # The target accepts others, so they need not wait for this one.
            retry_at = now + self.limits.delay(entry.refusals)
            self._refusals.note(entry, retry_at)
            self._retain(entry, retry_at)
            return
        self._back_off(settlement, now)
        if entry.is_suspect and retry_at is None:
            # After events of its target that were not refused individually.
            retry_at = lane.retry_at + SILENCE
        self._refusals.note(entry, lane.retry_at if retry_at is None else retry_at)
        self._retain(entry, retry_at)

    def _back_off(self, settlement: Settlement, now: float) -> None:
        """Send nothing more to a target for a while, so that nobody waits for that."""
        entry = settlement.entry
        self._traffic.back_off(entry, now, settlement.retry_after)
        if self._traffic.is_refused(entry.target):
            for waiter in self._waiters:
                waiter.leave_behind(entry.target)

    def _die(self, entry: Entry) -> None:
        """Dead-letter *entry*; if there are too many dead events, drop the oldest.

        None of the outbox, whose store leaves them to their rows instead.
        """
        self._move(entry, State.DEAD)
        self._observe(Happened.DEAD, [entry], reason=entry.reason)
        if entry.is_committed:
            return
        self._dead.append(entry)
        # No more than it replaces, since adopted ones may exceed the limit.
        freed = 0
        while freed <= entry.event.size and self._room.has_too_many_dead():
            if len(self._dead) == 1:
                break
            oldest = self._dead.popleft()
            if oldest.state is State.DEAD:
                freed += oldest.event.size + 1
                self._drop(oldest, OVERFLOW, self._deferred)

    def _refused_too_long(self, entry: Entry) -> bool:
        refused_for = self._broker.seconds() - entry.refused_since
        return refused_for >= self.limits.dead_after

    def _notice(
        self,
        entry: Entry,
        kind: NoticeKind,
        outcome: Outcome | None = None,
        elapsed: float = 0.0,
    ) -> None:
        self._notices_of(entry).append(
            Notice(kind, entry.event, entry.reason, outcome, entry.attempts, elapsed)
        )

    def _notices_of(self, entry: Entry) -> Notices:
        return self._deferred if entry.waiter is None else entry.waiter.notices

    def _failed(self, entry: Entry, outcome: Outcome | None = None) -> None:
        self._note_failure(entry, entry.reason, outcome, self._notices_of(entry))

    def _note_failure(
        self, entry: Entry, reason: str, outcome: Outcome | None, notices: Notices
    ) -> None:
        first, entry.has_failed = not entry.has_failed, True
        kind, attempts = NoticeKind.FAILED, entry.attempts
        notices.append(
            Notice(kind, entry.event, reason, outcome, attempts, first=first)
        )

    # Waiting.

    def _waited_in_vain(self, waiter: Waiter) -> bool:
        """Whether *waiter* timed out because of the broker."""
        if self._broker.state is not BrokerState.READY:
            return bool(waiter.pending)
        return any(entry.state is State.IN_FLIGHT for entry in waiter.pending)

    def _begin_waiting(self, waiter: Waiter) -> None:
        if self._worth_waiting(waiter):
            self._waiters.add(waiter)
            waiting = (entry for entry in waiter.entries if entry.is_retained)
            for target, group in groupby(waiting, _target_of):
                if not self._is_held_up(target, waiter):
                    waiter.pending.update(group)
        if not waiter.pending:
            waiter.done.set()

    def _is_held_up(self, target: Target, waiter: Waiter) -> bool:
        """Whether no confirm of *target* can be expected soon.

        A patient caller waits for one that is only silent.
        """
        lane = self._traffic.lane(target)
        is_silent = not waiter.patient and self._traffic.is_silent(lane)
        return lane.backing_off or is_silent

    def _worth_waiting(self, waiter: Waiter) -> bool:
        if self._broker.is_final:
            return False
        return waiter.patient or self._broker.worth_waiting

    def _undelivered(self) -> int:
        held = self._books.count(State.IN_FLIGHT, State.RETAINED)
        return held + sum(self._disk_index.unadopted.values())

    def _rebuild(self) -> None:
        """Recompute everything derived from the entries, after an interrupted step."""
        self._books.rebuild()
        self._traffic.rebuild(self._clock())
        dead = self._books.in_state(State.DEAD)
        self._dead = deque(entry for entry in dead if not entry.is_committed)
        self._disk_index.rebuild(self._books.in_state(*_HANDED_OVER))
        described = (e for e in self._books if not e.event.is_plain)
        handed_over = (e for e in described if e.state in _HANDED_OVER)
        self._timetable.rebuild(handed_over, self._clock())
        self._admit()
        for waiter in self._waiters:
            waiter.look_again()
        self._changed.wake_all()


#: Steps that change something, with their results when they are postponed. A broker
#: that wants to take events asks again.
_POSTPONED: dict[str, Callable[[], Any]] = {
    "discard": int,
    "discard_abandoned": lambda: None,
    "discard_collected": lambda: None,
    "drop_all": int,
    "hand_over": lambda: None,
    "leave": list,
    "on_state_change": lambda: None,
    "purge": int,
    "redirect": int,
    "reopen": lambda: None,
    "retry": int,
    "settle": bool,
    "take": list,
}


def _is_confirm(settlement: Settlement) -> bool:
    return settlement.outcome is Outcome.CONFIRMED
