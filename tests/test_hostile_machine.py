"""Healthy targets' events are confirmed, regardless of hostile targets and events.

The session and the broker around a ledger are simulated like RabbitMQ, on a simulated
clock. `TEST_HOSTILE_RUNS` sets the number of runs.
"""

from __future__ import annotations

import heapq
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flask_eventcollector.delivery.entries import Entry, Settlement, State
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.delivery.traffic import MAX_IN_FLIGHT_BYTES
from flask_eventcollector.events import BrokerState, Outcome
from tests.parts import Clock, limits, make_event

#: The round-trip time in seconds.
HALF_WAY = 0.01
#: Seconds between two checks of timeouts, as in the session.
TICK = 0.5
#: The shortest time between two runs of the flusher, in seconds.
LEAST_PAUSE = 0.02
#: Seconds without a connection after each end of one.
AWAY = 0.5
#: Seconds within which a healthy target's event is confirmed while connected, and
#: additional seconds for each connection that ended meanwhile.
BOUND = 6.0
BOUND_PER_END = 1.0
MAX_IN_FLIGHT = 8

#: Simulated sizes of events: three of the large ones may be in flight.
SIZES = st.sampled_from([1, 1, MAX_IN_FLIGHT_BYTES // 3])

HEALTHY = "healthy"
SILENT = "silent"
CLOSES_CHANNEL = "closes the channel"
CLOSES_CONNECTION = "closes the connection"
REFUSALS = {"nacks": Outcome.NACKED, "returns": Outcome.RETURNED}
HOSTILE = [SILENT, *REFUSALS, CLOSES_CHANNEL, CLOSES_CONNECTION]
#: These also happen to single events of healthy targets.
CULPRITS = [CLOSES_CHANNEL, CLOSES_CONNECTION]


def delay(failures: int) -> float:
    """Seconds of delay after consecutive failures."""
    return min(0.5 * 2.0 ** (failures - 1), 5.0)


@dataclass
class Channel:
    """A channel, as client and broker see it."""

    unconfirmed: list[Entry] = field(default_factory=list)
    #: Arriving frames have no effect any more.
    is_closed_by_broker: bool = False
    #: Responses are ignored.
    is_lost: bool = False


class SimulatedSession:
    """Simulates the RabbitMQ session and a broker for a ledger."""

    def __init__(self, clock: Clock, ledger: Ledger) -> None:
        self.clock = clock
        self.ledger = ledger
        #: By queue, and by the ids of single events.
        self.behaviour: dict[str, str] = {}
        self.culprits: dict[str, str] = {}
        #: How often each event was put into a queue, and when it was confirmed.
        self.copies: Counter[str] = Counter()
        self.confirmed_at: dict[str, float] = {}
        #: Connections that ended for no reason, by the events that were in flight.
        self.innocent_ends: Counter[str] = Counter()
        self.away: list[tuple[float, float]] = []
        self._channels: dict[str, Channel] = defaultdict(Channel)
        self._is_up = False
        self._drains_at = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._connect()
        self._tick()

    # Time.

    def run(self, seconds: float) -> None:
        """Let *seconds* pass."""
        end = self.clock.now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            at, _, act = heapq.heappop(self._agenda)
            self.clock.now = at
            act()
        self.clock.now = end

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        at = self.clock.now + seconds
        heapq.heappush(self._agenda, (at, next(self._numbers), act))

    # The session.

    def drain(self) -> None:
        """Send the events that may be sent, and again when there are more."""
        if self._is_up:
            for entry in self.ledger.take(200):
                self._publish(entry)
        due = self.ledger.due()
        if due is not None:
            at = self.clock.now + max(due, LEAST_PAUSE)
            if not self.clock.now < self._drains_at <= at:
                self._drains_at = at
                self._later(at - self.clock.now, self.drain)

    def _tick(self) -> None:
        self.drain()
        self._later(TICK, self._tick)

    def _connect(self) -> None:
        self._is_up = True
        self.ledger.on_state_change(BrokerState.READY)
        self.drain()

    def _publish(self, entry: Entry) -> None:
        channel = self._channels[entry.event.exchange]
        channel.unconfirmed.append(entry)
        self._later(HALF_WAY, lambda: self._arrive(channel, entry))

    def _settle(self, settlements: list[Settlement]) -> None:
        if self.ledger.settle(settlements):
            self.drain()

    def _heard(self, channel: Channel, entry: Entry, outcome: Outcome) -> None:
        if channel.is_lost or entry not in channel.unconfirmed:
            return
        channel.unconfirmed.remove(entry)
        if outcome is Outcome.CONFIRMED:
            self.confirmed_at[entry.event.id] = self.clock.now
        self._settle([Settlement(entry, outcome, "no")])

    def _channel_ended(self, exchange: str, channel: Channel) -> None:
        if not channel.is_lost:
            del self._channels[exchange]
            self._settle(_lost(channel, suspect=True))

    def end_connection(self, *, accuses: bool) -> None:
        """The connection ends; *accuses*: the broker blames an event."""
        if not self._is_up:
            return
        self._is_up = False
        channels, self._channels = self._channels, defaultdict(Channel)
        for channel in channels.values():
            if not accuses:
                self.innocent_ends.update(e.event.id for e in channel.unconfirmed)
            channel.is_closed_by_broker = True
            self._settle(_lost(channel, suspect=accuses, final=True))
        self.ledger.on_state_change(BrokerState.DOWN, "gone")
        self.away.append((self.clock.now, self.clock.now + AWAY))
        self._later(AWAY, self._connect)

    # The broker.

    def _arrive(self, channel: Channel, entry: Entry) -> None:
        if channel.is_closed_by_broker:
            return
        event = entry.event
        does = self.culprits.get(event.id) or self.behaviour[event.target_queue]
        if does == HEALTHY:
            self.copies[event.id] += 1
            self._answer(lambda: self._heard(channel, entry, Outcome.CONFIRMED))
        elif does in REFUSALS:
            self._answer(lambda: self._heard(channel, entry, REFUSALS[does]))
        elif does == CLOSES_CHANNEL:
            channel.is_closed_by_broker = True
            self._answer(lambda: self._channel_ended(event.exchange, channel))
        elif does == CLOSES_CONNECTION:
            for other in self._channels.values():
                other.is_closed_by_broker = True
            self._answer(lambda: self._end(channel))

    def _answer(self, act: Callable[[], None]) -> None:
        self._later(HALF_WAY, act)

    def _end(self, channel: Channel) -> None:
        if not channel.is_lost:
            self.end_connection(accuses=True)

    def recover(self, queue: str) -> None:
        """Make a hostile queue healthy, and confirm its events."""
        self.behaviour[queue] = HEALTHY
        for channel in list(self._channels.values()):
            for entry in list(channel.unconfirmed):
                if (
                    entry.event.target_queue == queue
                    and entry.event.id not in self.culprits
                ):
                    self._heard(channel, entry, Outcome.CONFIRMED)


def _lost(channel: Channel, *, suspect: bool, final: bool = False) -> list[Settlement]:
    channel.is_lost = True
    return [
        Settlement(entry, Outcome.UNKNOWN, "gone", suspect=suspect, final=final)
        for entry in channel.unconfirmed
    ]


class HostileMachine(RuleBasedStateMachine):
    """Two healthy targets, and up to four that are not."""

    healthy = ("", "healthy"), ("x", "healthy, too")

    @initialize(hostile=st.lists(st.sampled_from(HOSTILE), max_size=4))
    def start(self, hostile: list[str]) -> None:
        self.clock = Clock()
        self.ledger = Ledger(
            limits(
                max_in_flight=MAX_IN_FLIGHT,
                max_events=100_000,
                max_bytes=1 << 50,
                max_dead_events=10_000,
                dead_after=20.0,
                delay=delay,
            ),
            self.clock,
        )
        self.session = SimulatedSession(self.clock, self.ledger)
        self.hostile = [
            (("", "x")[number % 2], f"{number}: {does}")
            for number, does in enumerate(hostile)
        ]
        for _, queue in self.healthy:
            self.session.behaviour[queue] = HEALTHY
        for (_, queue), does in zip(self.hostile, hostile, strict=True):
            self.session.behaviour[queue] = does
        self.entries: list[Entry] = []
        #: How many there are, by queue.
        self.culprits: Counter[str] = Counter()

    @rule(place=st.integers(0, 1), events=st.integers(1, 12), size=SIZES)
    def publish(self, place: int, events: int, size: int) -> None:
        self.hand_over(self.healthy[place], events, size=size)

    @rule(data=st.data(), events=st.integers(1, 12), size=SIZES)
    def publish_to_hostile(self, data: st.DataObject, events: int, size: int) -> None:
        if self.hostile:
            target = data.draw(st.sampled_from(self.hostile))
            self.hand_over(target, events, size=size)

    @rule(
        place=st.integers(0, 1),
        events=st.integers(0, 3),
        does=st.sampled_from(CULPRITS),
    )
    def publish_a_culprit(self, place: int, events: int, does: str) -> None:
        self.hand_over(self.healthy[place], events, culprit=does)

    @rule(seconds=st.sampled_from([0.001, 0.012, 0.025, 0.3, 1.0, 4.0]))
    def run(self, seconds: float) -> None:
        self.session.run(seconds)

    @rule()
    def drop_connection(self) -> None:
        self.session.end_connection(accuses=False)

    @rule(data=st.data())
    def recover(self, data: st.DataObject) -> None:
        if self.hostile:
            _, queue = data.draw(st.sampled_from(self.hostile))
            self.session.recover(queue)

    def hand_over(
        self, target: tuple[str, str], events: int, *, culprit: str = "", size: int = 1
    ) -> None:
        exchange, queue = target
        entries: list[Entry] = []
        for number in range(events + bool(culprit)):
            event = make_event(queue=queue, exchange=exchange, size=size)
            if culprit and number == events // 2:
                self.session.culprits[event.id] = culprit
                self.culprits[queue] += 1
            self.ledger.collect(entries, event)
        self.entries += entries
        self.ledger.hand_over(entries)
        self.session.drain()

    @invariant()
    def the_books_balance(self) -> None:
        if not hasattr(self, "ledger"):
            return
        stats = self.ledger.stats()
        assert stats.balanced
        for state in (State.RETAINED, State.IN_FLIGHT, State.DEAD, State.CONFIRMED):
            count = sum(entry.state is state for entry in self.entries)
            assert getattr(stats, state.name.lower()) == count

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        # Each event that ends the connection does so twice.
        ends = 2 * len(self.entries)
        most = max(map(self.bound, self.entries), default=BOUND)
        self.session.run(most + ends * (AWAY + BOUND_PER_END))
        names = {queue for _, queue in self.healthy}
        for entry in self.entries:
            event = entry.event
            if event.target_queue in names and event.id not in self.session.culprits:
                self.check(entry)
        self.the_books_balance()

    def check(self, entry: Entry) -> None:
        id = entry.event.id
        assert entry.state is State.CONFIRMED
        took = self.session.confirmed_at[id] - entry.handed_over_at
        ends, away = self.ends_since(entry)
        assert took - away <= self.bound(entry) + ends * BOUND_PER_END
        assert self.session.copies[id] <= 2 + self.session.innocent_ends[id]

    def bound(self, entry: Entry) -> float:
        """Seconds until it is confirmed; each culprit of its target costs a delay."""
        queue = entry.event.target_queue
        return BOUND + sum(map(delay, range(1, self.culprits[queue] + 1)))

    def ends_since(self, entry: Entry) -> tuple[int, float]:
        """Connections that ended while *entry* waited, and seconds without any."""
        begin, end = entry.handed_over_at, self.session.confirmed_at[entry.event.id]
        away = [
            min(end, back) - max(begin, gone)
            for gone, back in self.session.away
            if gone < end and back > begin
        ]
        return len(away), sum(away)


TestHostile = pytest.mark.slow(HostileMachine.TestCase)
TestHostile.settings = settings(
    max_examples=int(os.environ.get("TEST_HOSTILE_RUNS", "40")),
    stateful_step_count=40,
    # Explaining a failure takes minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
