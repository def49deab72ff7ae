"""The state of each event of this process, guarded by one lock."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..events import (
    BrokerState,
    DeadEvent,
    Event,
    PublishResult,
    Stats,
    Target,
)
from .broker_status import BrokerStatus
from .disk_index import Write
from .entries import (
    ABANDONED,
    PURGED,
    BrokerChange,
    Entry,
    Notice,
    Settlement,
    State,
    Waiter,
    empty,
)
from .intake import SMALL, Intake
from .limits import Limits
from .moves import HANDED_OVER, Moves
from .observations import Happened, Observations
from .overflow import Overflow
from .owners import Owners
from .problems import Problems
from .refusals import Refusal
from .reports import Notices, Reports
from .settling import Settling
from .signal import Broadcast
from .threads import holds
from .waiters import Waiters

P = ParamSpec("P")
R = TypeVar("R")


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
                if self._intake.arrivals or self._postponed:
                    self._catch_up()
                return method(self, *args, **kwargs)
            except BaseException:
                self._rebuild()
                raise

    return locked


class Ledger:
    """The state of every event that this process holds, and the books.

    It has the lock, and its parts do the work: ``Intake`` holds what is collected,
    ``Moves`` changes states and lists all ways from one to the next, ``Traffic`` says
    what is sent, ``Settling`` what an outcome means, ``Waiters`` who is released then.

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
        self._lock = threading.RLock()
        #: Calls that were postponed in the middle of a step.
        self._postponed: deque[Callable[[], object]] = deque()
        self._changed = Broadcast(clock)
        self._broker = BrokerStatus(clock)
        self._reports = Reports(is_heard, observations)
        self._moves = moves = Moves(limits, clock, self._broker, self._reports)
        self._books = moves.books
        self._room = moves.room
        self._traffic = moves.traffic
        self._disk_index = moves.disk_index
        self._problems = Problems(self._traffic, self._broker, clock)
        self._overflow = Overflow(limits, self._room, self._traffic, self._broker)
        self._owners = Owners()
        self._intake = Intake(limits, moves, self._overflow, self._reports)
        self._waiters = Waiters(self._traffic, self._broker)
        self._settling = Settling(
            limits, moves, self._broker, self._waiters, self._reports
        )

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
        intake = self._intake
        small = event.size <= SMALL and len(intake.arrivals) < intake.admitted
        if small or self.is_in_step:
            entry = Entry(event)
            # It gets its owner first: after an interruption here, it would have none.
            entries.append(entry)
            if also_in is not None:
                also_in.append(entry)
            intake.arrivals.append(entry)
            return True
        notices = self._reports.deferred if into is None else into
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
        return self._intake.collect(entries, event, also_in, notices, is_kept=is_kept)

    def replace(self, entry: Entry, event: Event, *, into: Notices) -> bool:
        """Let *entry* be *event* from now on, and discard its former one.

        Returns whether it was: it must be collected, not be written, and there must be
        room for a larger event.
        """
        return not self.is_in_step and self._replace(entry, event, into)

    @step
    def _replace(self, entry: Entry, event: Event, notices: Notices) -> bool:
        return self._intake.replace(entry, event, notices)

    def coalesce(self, entries: list[Entry], *, into: Notices) -> None:
        """Of the *entries* with the same slot, keep one, in the place of the first.

        The others are discarded. Those that a transaction has written are kept.
        """
        if not self.is_in_step:
            self._coalesce(entries, into)

    @step
    def _coalesce(self, entries: list[Entry], notices: Notices) -> None:
        self._intake.coalesce(entries, notices)

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
        return self._moves.discard(entries, reason, into)

    def watch(
        self, owner: object, entries: list[Entry], reason: str = ABANDONED
    ) -> None:
        """Let :meth:`discard_abandoned` discard *entries* once *owner* is deleted.

        The owner is a collector, or a transaction of the application. Takes no lock.
        """
        self._owners.watch(owner, entries, reason)

    @step
    def discard_abandoned(self, *, into: Notices | None = None) -> None:
        """Discard what deleted owners held."""
        for owner in self._owners.take_abandoned():
            self._moves.discard(owner.entries, owner.reason, into)

    @step
    def discard_collected(self, reason: str, *, into: Notices | None = None) -> None:
        """Discard everything that was collected but not handed over."""
        self._moves.discard(self._books.in_state(State.COLLECTED), reason, into)

    @step
    def hand_over(self, entries: list[Entry], waiter: Waiter | None = None) -> None:
        """Empty a collector: its events now wait for the broker."""
        collected = [entry for entry in entries if entry.state is State.COLLECTED]
        if waiter is not None:
            # First: an interrupted caller releases those that are in here.
            waiter.entries += collected
            if len(collected) < len(entries):
                waiter.outboxed = [e.state for e in entries].count(State.OUTBOXED)
        self._moves.hand_over(self._intake.without_excess(collected, waiter), waiter)
        empty(entries, collected)
        if waiter is not None:
            self._waiters.begin(waiter)

    # Notices that no caller is waiting for.

    def defer(self, notices: Iterable[Notice]) -> None:
        """Leave *notices* for :meth:`take_deferred`; takes no lock."""
        self._reports.deferred.extend(notices)

    @step
    def take_deferred(self, into: Notices) -> None:
        """Move the deferred notices *into* a list."""
        for _ in range(len(self._reports.deferred)):
            into.append(self._reports.deferred[0])
            # Afterwards: interrupted in between, it is taken once more.
            self._reports.deferred.popleft()

    @step
    def take_broker_change(self) -> BrokerChange | None:
        """Take the oldest change of the broker's state that is not reported yet."""
        return self._broker.take_change()

    @property
    def has_deferred(self) -> bool:
        """Whether there are deferred notices; takes no lock."""
        return bool(self._reports.deferred)

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
        """Release *waiter*. If its result is incomplete, :meth:`let_go` must follow."""
        self._waiters.end(waiter, ran_out=ran_out)
        for entry in waiter.entries:
            entry.waiter = waiter.succeed() if entry.state in HANDED_OVER else None
            obstacle = self._problems.obstacle(entry)
            if obstacle:
                self._reports.obstructed(entry, obstacle, waiter)
        return waiter.result(self._problems.among(waiter.entries))

    @step
    def let_go(self, waiter: Waiter) -> None:
        """Let the flusher report what has happened to its events since it was released.

        A caller lets go once its own notices are dispatched, so that they come first.
        """
        if waiter.successor is not None:
            for entry in waiter.entries:
                entry.waiter = None
            self.defer(waiter.successor.notices)
            waiter.successor.notices.clear()

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
        if self._moves.timetable:
            self._moves.keep_time(now)
        try:
            self._traffic.take(taken, limit, now)
            self._reports.observe_sending(taken, now)
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
        self._settling.settle(settlements, now)
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
            self._settling.give_back(error, self._clock())
        elif state is BrokerState.READY and not self._broker.state.is_connected:
            self._traffic.reopen()
        self._broker.change(state, error, final=final)
        self._waiters.heed_broker()
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
        return bool(self._moves.timetable)

    @step
    def keep_time(self) -> float:
        """Retain the delayed events that are due, and drop those that have expired.

        Returns the seconds until the next ones; infinite: there are none.
        """
        self._moves.keep_time(self._clock())
        return self._moves.timetable.next_at - self._clock()

    @step
    def end_delays(self) -> int:
        """Retain all delayed events, as if they were due; returns how many."""
        return self._moves.end_delays()

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
        return self._books.in_state(*HANDED_OVER)

    @step
    def retry(self, ids: Iterable[str] | None) -> int:
        """Retain dead events in their original positions; returns how many.

        Those of the outbox are left to whichever process claims their rows.
        """
        dead = [e for e in self._books.select(ids) if e.state is State.DEAD]
        self._moves.try_again(entry for entry in dead if not entry.is_committed)
        self._intake.admit()
        committed = [entry for entry in dead if entry.is_committed]
        for entry in committed:
            self._moves.move(entry, State.OUTBOXED)
        self._reports.observe(Happened.OUTBOXED, committed)
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
            self._settling.refusals.forget(entry)
            entry.redirect(queue)
        self._moves.try_again(e for e in idle if e.state is not State.DELAYED)
        self._intake.admit()
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
            among = self._books.in_state(*HANDED_OVER)
        left = [e for e in among if e.state in HANDED_OVER and not e.is_stored]
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
            self._end_write(journal, write, written=False)
            raise
        self._end_write(journal, write, written=True)

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
        self._disk_index.lose(journal, self._books.in_state(*HANDED_OVER))

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
            self._moves.adopt(entry, now)
        self._intake.admit()
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
        self._reports.observe(Happened.ADOPTED, new)
        self._drop_each(new, reason)

    @step
    def leave(self, entries: Iterable[Entry]) -> list[Entry]:
        """Leave events to whichever process holds their rows of the outbox.

        Returns those of *entries* that were left: none that is in flight or has ended.
        """
        left = [e for e in entries if e.state.alive and e.state is not State.IN_FLIGHT]
        self._moves.leave(left)
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
        """How many more rows of the outbox, and bytes, may be in memory.

        Likewise delayed events that a dead process has left on disk.
        """
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
            **self._disk_index.as_dict(self._books.count(*HANDED_OVER)),
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
        self._settling.refusals.forget_ended()
        version = self._settling.refusals.version
        if version == known:
            return known, []
        return version, self._settling.refusals.of(journal, self._clock())

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
    def _end_write(self, journal: object, write: Write, *, written: bool) -> None:
        self._disk_index.end_update(journal)
        if written:
            self._disk_index.stored(write.new)
        else:
            for entry in write.outdated:
                self._disk_index.outdate(entry)

    # Below here, the lock is held: work that was recorded without it.

    def _catch_up(self) -> None:
        """Carry out what was recorded without the lock, or in the middle of a step."""
        self._intake.take_arrivals()
        while self._postponed:
            # Each may be repeated, since it checks the entries' states.
            self._postponed[0]()
            self._postponed.popleft()
        self._intake.admit()

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

    def _drop_each(
        self, entries: list[Entry], reason: str, into: Notices | None = None
    ) -> int:
        self._moves.drop_each(entries, reason, into)
        self._changed.wake_all()
        return len(entries)

    def _idle(self, ids: Iterable[str]) -> list[Entry]:
        """Those of the events with *ids* that are dead or waiting."""
        idle = (State.DEAD, State.DELAYED, State.RETAINED)
        return [entry for entry in self._books.select(ids) if entry.state in idle]

    def _undelivered(self) -> int:
        held = self._books.count(State.IN_FLIGHT, State.RETAINED)
        return held + sum(self._disk_index.unadopted.values())

    def _rebuild(self) -> None:
        """Recompute everything derived from the entries, after an interrupted step."""
        self._moves.rebuild()
        self._intake.admit()
        self._waiters.look_again()
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
