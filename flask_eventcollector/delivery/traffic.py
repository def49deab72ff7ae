"""Which of the retained events are sent next."""

from __future__ import annotations

from ..events import BrokerState, Target
from .books import Books
from .broker_status import BrokerStatus
from .entries import Entry, State
from .lanes import Lane
from .limits import Limits
from .suspects import Suspects

#: The most bytes in flight, since pika's write buffer has no limit of its own. One
#: event may always be sent, whatever its size.
MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024

#: A target is silent if it settles nothing for this many seconds, plus twice the
#: latency of the last confirm, while others are confirmed.
SILENCE = 0.5

#: How many events may be sent beyond the window, to check whether it is stuck.
_MOST_SCOUTS = 8


class Traffic:
    """The lanes of all targets, and the suspects; decides whose turn it is.

    The lanes take turns. Silent ones get none, so that they hold up no other, and a
    suspect is sent while nothing else is in flight.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self, limits: Limits, books: Books, broker: BrokerStatus) -> None:
        self._limits = limits
        self._books = books
        self._broker = broker
        #: In the order of their turns.
        self.lanes: dict[Target, Lane] = {}
        #: Lanes that back off. Those that have recovered are removed lazily.
        self._refused: dict[Target, Lane] = {}
        self.suspects = Suspects()

    def lane(self, target: Target) -> Lane:
        """The lane of *target*, a new one if it has none."""
        lane = self.lanes.get(target)
        if lane is None:
            lane = self.lanes[target] = Lane(self._limits.delay)
        return lane

    def add(self, entry: Entry, retry_at: float | None = None) -> None:
        """Let *entry* wait for its turn, and for *retry_at* if it is given."""
        if entry.is_suspect:
            self.suspects.add(entry, retry_at or 0.0)
        elif retry_at is None:
            self.lane(entry.target).add(entry)
        else:
            self.lane(entry.target).add_delayed(entry, retry_at)

    def remove(self, entries: set[Entry]) -> None:
        """Remove those of *entries* that wait."""
        self.suspects.remove(entries)
        for target in {entry.target for entry in entries}:
            self.lane(target).remove(entries)
            self.forget_if_idle(target)

    def departed(self, target: Target) -> None:
        """Note that an event for *target* has ended while it waited."""
        self.lane(target).departed()
        self.forget_if_idle(target)

    def forget_if_idle(self, target: Target) -> None:
        """Forget the lane of *target* if nothing is there."""
        # Targets may be named after users or hosts, so their number is unbounded.
        if not self.lanes.get(target, True) and not self.suspects.has(target):
            del self.lanes[target]
            self._refused.pop(target, None)

    def reopen(self) -> None:
        """Allow everything to be retried at once."""
        self.suspects.reopen()
        for lane in self.lanes.values():
            lane.reopen()

    def rebuild(self, now: float) -> None:
        """Recompute everything from the entries' states."""
        self.lanes, self._refused = {}, {}
        alone, self.suspects = self.suspects.alone, Suspects()
        for entry in self._books.in_state(State.RETAINED):
            self.add(entry)
        for entry in self._books.in_state(State.IN_FLIGHT):
            self.lane(entry.target).sent(1, entry.event.size, now)
            if entry is alone:
                self.suspects.alone = alone

    # What targets refuse, or do not answer.

    def back_off(self, entry: Entry, now: float, retry_after: float | None) -> None:
        """Send nothing to the target of *entry*, which was refused, for a while.

        :param retry_after: for so many seconds; ``None``: for the backoff's delay.
        """
        lane = self._refused[entry.target] = self.lane(entry.target)
        lane.back_off(now, entry.sent_at, retry_after)
        self.suspects.hold_back(entry.target, lane.retry_at)

    def is_refused(self, target: Target) -> bool:
        """Whether *target* refused an event and has confirmed none since."""
        lane = self.lanes.get(target)
        return lane is not None and lane.backing_off

    def refused(self) -> list[Lane]:
        """The lanes of the refused targets."""
        refused = {t: lane for t, lane in self._refused.items() if self.is_refused(t)}
        self._refused = refused
        return list(refused.values())

    def is_silent(self, lane: Lane) -> bool:
        """Whether others were confirmed while *lane* waited for confirms in vain."""
        return lane.is_silent(self._broker.heard_at, self._patience)

    def held_up(self) -> set[Target]:
        """The targets that confirm nothing: they refuse events, or are silent."""
        return {
            target
            for target, lane in self.lanes.items()
            if lane.backing_off or self.is_silent(lane)
        }

    @property
    def _patience(self) -> float:
        """Seconds that a confirm may take."""
        return SILENCE + 2 * self._broker.latency

    def _is_unheard(self, target: Target, now: float) -> bool:
        """Whether *target*, or the whole broker, has settled nothing for long."""
        lane = self.lanes.get(target)
        return lane is not None and lane.is_silent(now, self._patience)

    def _is_busy(self, now: float) -> bool:
        """Whether settlements of events in flight can be expected soon."""
        return any(
            lane.in_flight and not self._is_unheard(target, now)
            for target, lane in self.lanes.items()
        )

    # Whose turn it is.

    def due(self, now: float) -> float | None:
        """When an event could be sent; ``None``: waiting alone won't help."""
        if self._broker.state is not BrokerState.READY:
            return None
        if self.suspects.alone is not None:
            return self.lane(self.suspects.alone.target).silent_at(self._patience)
        times = [self.suspects.due()]
        if min(self._window()) > 0:
            lanes = [lane for lane in self.lanes.values() if not self.is_silent(lane)]
            times += [lane.due(now) for lane in lanes]
        return min((time for time in times if time is not None), default=None)

    @property
    def is_resting(self) -> bool:
        """Whether nothing can be sent before some time has passed."""
        if self.suspects.due() == 0.0:
            return False
        return all(lane.resting for lane in self.lanes.values())

    def is_due(self, now: float) -> bool:
        """Whether an event could be sent at once."""
        return _is_due(self.due(now), now)

    def take(self, taken: list[Entry], limit: int, now: float) -> None:
        """Add what may be sent at *now* to *taken*, in each target's order."""
        alone = self.suspects.alone
        if alone is not None and not self._acquit(alone, now):
            return
        if not self.suspects.is_others_turn and self._take_suspect(taken, now):
            return
        self._take_others(taken, limit, now)
        if not taken and self._is_stuck(now):
            self._send_scout(taken, now)
        if taken:
            self.suspects.is_others_turn = False
        else:
            self._take_suspect(taken, now)

    def _take_others(self, taken: list[Entry], limit: int, now: float) -> None:
        room, room_bytes = self._window()
        # Except for silent targets, nothing is in flight.
        alone = room == self._limits.max_in_flight
        for target, lane in list(self.lanes.items()):
            room = min(room, limit - len(taken))
            if room <= 0:
                break
            if self.is_silent(lane):
                continue
            batch = lane.take(now, room, room_bytes, alone=alone)
            if batch:
                alone = False
                taken += batch
                room -= len(batch)
                room_bytes -= self._send(batch, lane, now)
                # Its next turn is after the others'.
                self.lanes[target] = self.lanes.pop(target)
            if room > 0 and _is_due(lane.due(now), now):
                # Its next event needs more bytes than are free. If other lanes went on,
                # that many bytes might never become free.
                break
            self.forget_if_idle(target)

    def _send_scout(self, taken: list[Entry], now: float) -> None:
        """Send one event for a target that has nothing in flight."""
        for target, lane in list(self.lanes.items()):
            if lane.in_flight:
                continue
            batch = lane.take(now, 1, 0, alone=True)
            if batch:
                taken += batch
                self._send(batch, lane, now)
                self.lanes[target] = self.lanes.pop(target)
                return

    def _take_suspect(self, taken: list[Entry], now: float) -> bool:
        """Send a suspect alone if there is one; returns whether others must wait."""
        while suspect := self.suspects.next(now):
            if not self._is_unheard(suspect.target, now):
                break
            self.suspects.hold_back(suspect.target, now + SILENCE)
        if suspect is None:
            return False
        if not self._is_busy(now):
            entry = self.suspects.take()
            taken.append(entry)
            self._send([entry], self.lane(entry.target), now)
        return True

    def _acquit(self, alone: Entry, now: float) -> bool:
        """Whether the suspect in flight is not at fault: its target is silent."""
        if not self._is_unheard(alone.target, now):
            return False
        self.suspects.acquit(alone)
        self.lane(alone.target).mute()
        return True

    def _is_stuck(self, now: float) -> bool:
        """Whether no event in flight gets settled, and scouts are left.

        Then an event for another target shows whether the broker or the target is at
        fault.
        """
        room, _ = self._window()
        return room > -_MOST_SCOUTS and not self._is_busy(now)

    def _window(self) -> tuple[int, int]:
        """How many events, and how many bytes, may still be sent."""
        silent = [lane for lane in self.lanes.values() if self.is_silent(lane)]
        in_flight = self._books.count(State.IN_FLIGHT)
        in_flight -= sum(lane.in_flight for lane in silent)
        size = self._books.bytes(State.IN_FLIGHT)
        size -= sum(lane.bytes_in_flight for lane in silent)
        return self._limits.max_in_flight - in_flight, MAX_IN_FLIGHT_BYTES - size

    def _send(self, batch: list[Entry], lane: Lane, now: float) -> int:
        """Note that *batch* is in flight; returns how many bytes that are."""
        for entry in batch:
            entry.attempts += 1
            entry.sent_at = now
            entry.state = State.IN_FLIGHT
        size = self._books.moved(batch, State.RETAINED, State.IN_FLIGHT)
        lane.sent(len(batch), size, now)
        return size


def _is_due(due: float | None, now: float) -> bool:
    return due is not None and due <= now
