"""The state of each event of this process, guarded by one lock."""

from __future__ import annotations

import functools
import itertools
import math
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
from dataclasses import replace
from heapq import nlargest
from itertools import groupby
from operator import attrgetter
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..events import (
    MOST_PROBLEMS,
    BrokerState,
    DeadEvent,
    Event,
    Outcome,
    PublishResult,
    Stats,
    Target,
    TargetProblem,
    worst_problems,
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
from .refusals import Refusal, Refusals
from .signal import Broadcast
from .suspects import Suspects
from .threads import holds
from .timetable import Timetable

P = ParamSpec("P")
R = TypeVar("R")

#: Where a step puts its notices.
Notices = MutableSequence[Notice]

#: The most bytes in flight, since pika's write buffer has no limit of its own. One
#: event may always be sent, whatever its size.
MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024

#: A target is silent if it settles nothing for this many seconds, plus twice the
#: latency of the last confirm, while others are confirmed.
SILENCE = 0.5

#: How many events may be sent beyond the window, to check whether it is stuck.
_MOST_SCOUTS = 8

#: How many events may be recorded without the lock at a time, and the size of each in
#: bytes. With many threads, the limits may briefly be exceeded by that much.
_MOST_ARRIVALS, _SMALL = 64, 16 * 1024

_SILENT = "no confirm for some time, while events for others are confirmed"

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
        self._lanes: dict[Target, Lane] = {}
        self._broker = BrokerStatus(clock)
        self._sequences = itertools.count(1)
        #: Lanes that back off. Those that have recovered are removed lazily.
        self._refused_lanes: dict[Target, Lane] = {}
        self._suspects = Suspects()
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
            is_modest &= not self._is_refused(event.target)
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
            self._lane(target).add_all(group)
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
            obstacle = self._obstacle(entry)
            if obstacle:
                self._observe(Happened.FAILED, [entry], reason=obstacle)
                self._note_failure(entry, obstacle, None, waiter.notices)
        return waiter.result(self._problems_among(waiter.entries))

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
        if any(target not in self._lanes for target in self._disk_index.unadopted):
            # The adopter is about to read more events of a dead process.
            return False
        ready = self._broker.state is BrokerState.READY
        if not ready or self._suspects.due() == 0.0:
            return False
        return all(lane.resting for lane in self._lanes.values())

    # Called by the broker.

    @step
    def take(self, limit: int) -> list[Entry]:
        """Take the events that may be sent now, in each target's order."""
        taken: list[Entry] = []
        try:
            self._take(taken, limit)
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
            if are_confirms and self._suspects.alone is None:
                self._confirm([settlement.entry for settlement in group], now)
                continue
            for settlement in group:
                if settlement.entry.state is State.IN_FLIGHT:
                    self._settle(settlement, now)
        self._changed.wake_all()
        if not self._books.count(State.RETAINED):
            return False
        return _is_due(self._due(now), now)

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
            self._reopen()
        self._broker.change(state, error, final=final)
        for waiter in self._waiters:
            if not self._worth_waiting(waiter):
                waiter.give_up()
        self._changed.wake_all()

    # Called by the flusher and by the application.

    @step
    def reopen(self) -> None:
        """Allow all waiting events to be retried at once."""
        self._reopen()

    @step
    def due(self) -> float | None:
        """Seconds until an event could be sent; ``None``: waiting alone won't help."""
        now = self._clock()
        due = self._due(now)
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
    def is_collected(self, event: Event) -> bool:
        """Whether a collector still holds *event*."""
        return any(e.state is State.COLLECTED for e in self._books.select([event.id]))

    @step
    def dead(self) -> tuple[DeadEvent, ...]:
        """The dead-lettered events."""
        dead = self._books.in_state(State.DEAD)
        return tuple(DeadEvent(e.event, e.reason, e.attempts) for e in dead)

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
        self._remove_from_lanes({entry for entry in idle if entry.is_retained})
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
        ours = [entry for entry in self._idle(ids) if self._is_ours(entry)]
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
                self._lane(entry.target).add(entry)
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
        self._remove_from_lanes({entry for entry in left if entry.is_retained})
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
        return {
            target
            for target, lane in self._lanes.items()
            if lane.backing_off or self._is_silent(lane)
        }

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
        held = {
            target: lane
            for target, lane in self._lanes.items()
            if lane.is_refused or self._is_silent(lane)
        }
        most = nlargest(MOST_PROBLEMS, held, key=lambda target: held[target].load)
        problems = [self._problem(target, held[target]) for target in most]
        return {"problem_targets": len(held), "problems": worst_problems(problems)}

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
        """Make room for *event* according to ``OVERFLOW``; returns whether it fits.

        Only units of work that hold few events may use the reserve. For these, the
        events of refused targets are dropped first.
        """
        while not self._room.has(1, event.size, reserve=is_modest):
            oldest = self._victim(event, is_modest=is_modest)
            if oldest is None:
                return False
            self._drop(oldest, OVERFLOW, notices)
        return True

    def _victim(self, event: Event, *, is_modest: bool) -> Entry | None:
        """The event to drop in favour of *event*."""
        if self.limits.reject or not self._room.can_ever_hold(event):
            return None
        drop_oldest = self.limits.drop_oldest
        if is_modest:
            oldest = self._oldest(self._refusing())
            if oldest is None and drop_oldest:
                oldest = self._oldest(self._lanes.values(), self._suspects.oldest())
            return oldest
        if drop_oldest and self._is_refused(event.target):
            return self._oldest([self._lanes[event.target]])
        return None

    def _refusing(self) -> list[Lane]:
        """The lanes of the refused targets."""
        refused = {t: n for t, n in self._refused_lanes.items() if self._is_refused(t)}
        self._refused_lanes = refused
        return list(refused.values())

    def _is_refused(self, target: Target) -> bool:
        lane = self._lanes.get(target)
        return lane is not None and lane.backing_off

    def _oldest(
        self, lanes: Iterable[Lane], others: Iterable[Entry] = ()
    ) -> Entry | None:
        """The oldest event of *lanes* and *others* that may be dropped."""
        heads = [lane.oldest() for lane in lanes]
        kept = [*(entry for entry in heads if entry is not None), *others]
        ours = [e for e in kept if self._is_ours(e) and not e.is_committed]
        return min(ours, key=lambda entry: entry.sequence, default=None)

    def _is_ours(self, entry: Entry) -> bool:
        """Whether it may be dropped. After a close, stored events stay on disk."""
        return not (entry.is_stored and self._broker.state is BrokerState.CLOSED)

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
            lane = self._lane(entry.target)
            lane.landed(1, entry.event.size, self._clock())
            self._suspects.settled(entry)
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
    ) -> None:
        if self._observations is not None:
            self._observations.note(what, entries, now, reason=reason, outcome=outcome)

    def _move(self, entry: Entry, state: State) -> None:
        """Change the entry's state and mark its row as outdated."""
        self._disk_index.change(entry, state)
        self._books.move(entry, state)

    def _retain(self, entry: Entry, retry_at: float | None = None) -> None:
        self._move(entry, State.RETAINED)
        if entry.is_suspect:
            self._suspects.add(entry, retry_at or 0.0)
        elif retry_at is None:
            self._lane(entry.target).add(entry)
        else:
            self._lane(entry.target).add_delayed(entry, retry_at)

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
            self._lane(entry.target).reopen()
            self._observe(Happened.RETRIED, [entry])
        self._admit()

    def _remove_from_lanes(self, retained: set[Entry]) -> None:
        self._suspects.remove(retained)
        for target in {entry.target for entry in retained}:
            self._lane(target).remove(retained)
            self._forget_if_idle(target)

    def _lane(self, target: Target) -> Lane:
        lane = self._lanes.get(target)
        if lane is None:
            lane = self._lanes[target] = Lane(self.limits.delay)
        return lane

    def _take(self, taken: list[Entry], limit: int) -> None:
        now = self._clock()
        if self._timetable:
            self._keep_time(now)
        alone = self._suspects.alone
        if alone is not None and not self._acquit(alone, now):
            return
        if not self._suspects.is_others_turn and self._take_suspect(taken, now):
            return
        self._take_others(taken, now, limit)
        if not taken and self._is_stuck(now):
            self._send_scout(taken, now)
        if taken:
            self._suspects.is_others_turn = False
        else:
            self._take_suspect(taken, now)

    def _take_others(self, taken: list[Entry], now: float, limit: int) -> None:
        room, room_bytes = self._window()
        # Except for silent targets, nothing is in flight.
        alone = room == self.limits.max_in_flight
        for target, lane in list(self._lanes.items()):
            room = min(room, limit - len(taken))
            if room <= 0:
                break
            if self._is_silent(lane):
                continue
            batch = lane.take(now, room, room_bytes, alone=alone)
            if batch:
                alone = False
                taken += batch
                room -= len(batch)
                room_bytes -= self._send(batch, lane, now)
                # Its next turn is after the others'.
                self._lanes[target] = self._lanes.pop(target)
            if room > 0 and _is_due(lane.due(now), now):
                # Its next event needs more bytes than are free. If other lanes went on,
                # that many bytes might never become free.
                break
            self._forget_if_idle(target)

    def _send_scout(self, taken: list[Entry], now: float) -> None:
        """Send one event for a target that has nothing in flight."""
        for target, lane in list(self._lanes.items()):
            if lane.in_flight:
                continue
            batch = lane.take(now, 1, 0, alone=True)
            if batch:
                taken += batch
                self._send(batch, lane, now)
                self._lanes[target] = self._lanes.pop(target)
                return

    def _take_suspect(self, taken: list[Entry], now: float) -> bool:
        """Send a suspect alone if there is one; returns whether others must wait."""
        while suspect := self._suspects.next(now):
            if not self._is_unheard(suspect.target, now):
                break
            self._suspects.hold_back(suspect.target, now + SILENCE)
        if suspect is None:
            return False
        if not self._is_busy(now):
            entry = self._suspects.take()
            taken.append(entry)
            self._send([entry], self._lane(entry.target), now)
        return True

    def _acquit(self, alone: Entry, now: float) -> bool:
        """Whether the suspect in flight is not at fault: its target is silent."""
        if not self._is_unheard(alone.target, now):
            return False
        self._suspects.acquit(alone)
        self._lane(alone.target).mute()
        return True

    def _is_busy(self, now: float) -> bool:
        """Whether settlements of events in flight can be expected soon."""
        return any(
            lane.in_flight and not self._is_unheard(target, now)
            for target, lane in self._lanes.items()
        )

    def _is_unheard(self, target: Target, now: float) -> bool:
        """Whether *target*, or the whole broker, has settled nothing for long."""
        lane = self._lanes.get(target)
        return lane is not None and lane.is_silent(now, self._patience)

    @property
    def _patience(self) -> float:
        """Seconds that a confirm may take."""
        return SILENCE + 2 * self._broker.latency

    def _is_silent(self, lane: Lane) -> bool:
        return lane.is_silent(self._broker.heard_at, self._patience)

    def _is_stuck(self, now: float) -> bool:
        """Whether no event in flight gets settled, and scouts are left.

        Then an event for another target shows whether the broker or the target is at
        fault.
        """
        room, _ = self._window()
        return room > -_MOST_SCOUTS and not self._is_busy(now)

    def _window(self) -> tuple[int, int]:
        """How many events, and how many bytes, may still be sent."""
        silent = [lane for lane in self._lanes.values() if self._is_silent(lane)]
        in_flight = self._books.count(State.IN_FLIGHT)
        in_flight -= sum(lane.in_flight for lane in silent)
        size = self._books.bytes(State.IN_FLIGHT)
        size -= sum(lane.bytes_in_flight for lane in silent)
        return self.limits.max_in_flight - in_flight, MAX_IN_FLIGHT_BYTES - size

    def _send(self, batch: list[Entry], lane: Lane, now: float) -> int:
        """Note that *batch* is in flight; returns how many bytes that are."""
        for entry in batch:
            entry.attempts += 1
            entry.sent_at = now
            entry.state = State.IN_FLIGHT
        size = self._books.moved(batch, State.RETAINED, State.IN_FLIGHT)
        lane.sent(len(batch), size, now)
        self._observe(Happened.SENT, batch, now)
        return size

    def _settle(self, settlement: Settlement, now: float) -> None:
        entry = settlement.entry
        if settlement.outcome is Outcome.CONFIRMED or settlement.is_discarded:
            self._suspects.settled(entry)
            entry.reason = settlement.reason
            self._confirm([entry], now, unrouted=settlement.is_discarded)
            return
        lane = self._lane(entry.target)
        lane.landed(1, entry.event.size, now)
        if self._suspects.settled(entry):
            settlement = settlement.alone()
        elif settlement.suspect and self._suspects.alone is None:
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
            self._not_sent(settlement, lane, now)
        elif outcome is Outcome.UNKNOWN:
            self._unknown(settlement, lane, now)
        else:
            self._refused(settlement, lane, now)
        if entry.waiter is not None:
            entry.waiter.settled(settlement)
        self._forget_if_idle(entry.target)

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
                lane = self._lane(target)
                lane.landed(len(confirmed), size, now)
                lane.confirmed(len(confirmed), now)
                if self._observations is not None:
                    what = Happened.UNROUTED if unrouted else Happened.CONFIRMED
                    for _, together in groupby(confirmed, _handed_over_at):
                        self._observe(what, [*together], now)
                self._forget_if_idle(target)

    def _not_sent(self, settlement: Settlement, lane: Lane, now: float) -> None:
        entry = settlement.entry
        entry.attempts -= 1
        if settlement.reason:
            self._failed(entry)
        self._retain(entry)
        if settlement.back_off:
            self._back_off(settlement, lane, now)

    def _unknown(self, settlement: Settlement, lane: Lane, now: float) -> None:
        entry = settlement.entry
        entry.possible_duplicate = True
        self._failed(entry, Outcome.UNKNOWN)
        self._retain(entry, settlement.retry_at(now))
        if settlement.back_off:
            self._back_off(settlement, lane, now)

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
        self._back_off(settlement, lane, now)
        if entry.is_suspect and retry_at is None:
            # After events of its target that were not refused individually.
            retry_at = lane.retry_at + SILENCE
        self._refusals.note(entry, lane.retry_at if retry_at is None else retry_at)
        self._retain(entry, retry_at)

    def _back_off(self, settlement: Settlement, lane: Lane, now: float) -> None:
        entry = settlement.entry
        lane.back_off(now, entry.sent_at, settlement.retry_after)
        self._suspects.hold_back(entry.target, lane.retry_at)
        self._refused_lanes[entry.target] = lane

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

    # What keeps events from being confirmed.

    def _problem(self, target: Target, lane: Lane) -> TargetProblem:
        events = lane.events + self._suspects.count(target)
        reason = lane.reason if lane.is_refused else _SILENT
        return self._about(target, events, reason, lane.attempts)

    def _about(
        self, target: Target, events: int, reason: str, attempts: int
    ) -> TargetProblem:
        """The problem with *target*; its lane knows the times."""
        queue, exchange = target.queue, target.exchange
        problem = TargetProblem(queue, exchange, events, reason, attempts)
        lane = self._lanes.get(target)
        if lane is None or not lane.attempts:
            return problem
        now, next_try = self._clock(), lane.next_try
        ready = self._broker.state is BrokerState.READY
        if not ready or next_try is None or next_try == math.inf:
            return replace(problem, last_try=now - lane.failed_at)
        left = max(0.0, next_try - now)
        return replace(problem, last_try=now - lane.failed_at, next_try=left)

    def _problems_among(self, entries: list[Entry]) -> tuple[TargetProblem, ...]:
        held: dict[Target, list[Entry]] = {}
        for entry in entries:
            if entry.state in (State.RETAINED, State.DEAD):
                held.setdefault(entry.target, []).append(entry)
        problems = [
            self._about(
                target,
                len(group),
                group[0].reason or self._obstacle(group[0]) or str(self._broker),
                group[0].attempts,
            )
            for target, group in held.items()
        ]
        return worst_problems(problems)

    # Waiting.

    def _waited_in_vain(self, waiter: Waiter) -> bool:
        """Whether *waiter* timed out because of the broker."""
        if self._broker.state is not BrokerState.READY:
            return bool(waiter.pending)
        return any(entry.state is State.IN_FLIGHT for entry in waiter.pending)

    def _obstacle(self, entry: Entry) -> str:
        """Why *entry* was not sent; ``""``: it was, or soon will be."""
        if not entry.is_retained or entry.attempts:
            return ""
        if not self._broker.worth_waiting:
            return str(self._broker)
        if self._is_refused(entry.target):
            return "the broker refused other events for the same target"
        return ""

    def _begin_waiting(self, waiter: Waiter) -> None:
        if self._worth_waiting(waiter):
            self._waiters.add(waiter)
            # Behind refused events, no confirm can be expected soon.
            waiting = (entry for entry in waiter.entries if entry.is_retained)
            expected = (e for e in waiting if not self._is_refused(e.target))
            waiter.pending.update(expected)
        if not waiter.pending:
            waiter.done.set()

    def _worth_waiting(self, waiter: Waiter) -> bool:
        if self._broker.is_final:
            return False
        return waiter.patient or self._broker.worth_waiting

    def _undelivered(self) -> int:
        held = self._books.count(State.IN_FLIGHT, State.RETAINED)
        return held + sum(self._disk_index.unadopted.values())

    def _due(self, now: float) -> float | None:
        ready = self._broker.state is BrokerState.READY
        if not ready:
            return None
        if self._suspects.alone is not None:
            return self._lane(self._suspects.alone.target).silent_at(self._patience)
        times = [self._suspects.due()]
        if min(self._window()) > 0:
            lanes = [lane for lane in self._lanes.values() if not self._is_silent(lane)]
            times += [lane.due(now) for lane in lanes]
        return min((time for time in times if time is not None), default=None)

    def _reopen(self) -> None:
        self._suspects.reopen()
        for lane in self._lanes.values():
            lane.reopen()

    def _forget_if_idle(self, target: Target) -> None:
        # Targets may be named after users or hosts, so their number is unbounded.
        if not self._lanes.get(target, True) and not self._suspects.has(target):
            del self._lanes[target]

    def _rebuild(self) -> None:
        """Recompute everything derived from the entries, after an interrupted step."""
        self._books.rebuild()
        self._lanes, self._refused_lanes = {}, {}
        dead = self._books.in_state(State.DEAD)
        self._dead = deque(entry for entry in dead if not entry.is_committed)
        alone, self._suspects = self._suspects.alone, Suspects()
        for entry in self._books.in_state(State.RETAINED):
            if entry.is_suspect:
                self._suspects.add(entry)
            else:
                self._lane(entry.target).add(entry)
        for entry in self._books.in_state(State.IN_FLIGHT):
            self._lane(entry.target).sent(1, entry.event.size, self._clock())
            if entry is alone:
                self._suspects.alone = alone
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


def _is_due(due: float | None, now: float) -> bool:
    return due is not None and due <= now
