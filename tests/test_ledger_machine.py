"""The ledger keeps its promises for any sequence of calls."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from flask_eventcollector import events
from flask_eventcollector.delivery.entries import (
    Entry,
    Notice,
    NoticeKind,
    Settlement,
    State,
    Waiter,
)
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.delivery.traffic import MAX_IN_FLIGHT_BYTES
from flask_eventcollector.events import (
    NO_PROPERTIES,
    BrokerState,
    Outcome,
    Properties,
    Target,
)
from tests.parts import Clock, abandon, drain, limits, make_event, notices_of

QUEUES = st.sampled_from(["a", "b", "c"])
# Events claim to be large, so that few of them reach the limits.
SIZES = st.sampled_from([0, 1, MAX_IN_FLIGHT_BYTES // 3, MAX_IN_FLIGHT_BYTES * 2])
STATES = [
    BrokerState.CONNECTING,
    BrokerState.READY,
    BrokerState.BLOCKED,
    BrokerState.DOWN,
]
FINAL_STATES = {
    NoticeKind.PUBLISHED: State.CONFIRMED,
    NoticeKind.DISCARDED: State.DISCARDED,
    NoticeKind.DROPPED: State.DROPPED,
}
HANDED_OVER = (State.DELAYED, State.RETAINED, State.IN_FLIGHT, State.DEAD)
#: Most events have neither a delay nor an expiry.
TIMES = st.sampled_from(
    [
        *[Properties()] * 4,
        Properties(delay=5),
        Properties(expires_in=12),
        Properties(delay=5, expires_in=12),
    ]
)
MAX_EVENTS = 12
MAX_DEAD_EVENTS = 3
MAX_BYTES = MAX_IN_FLIGHT_BYTES * 4
MAX_IN_FLIGHT = 4


class LedgerMachine(RuleBasedStateMachine):
    """Collectors, callers and a broker, in any order."""

    #: Whether there is a backlog on disk.
    durable = False

    collectors: Bundle[list[Entry]] = Bundle("collectors")
    waiters: Bundle[Waiter] = Bundle("waiters")
    released: Bundle[Waiter] = Bundle("released")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        wall = SimpleNamespace(time=lambda: self.clock.now)
        self.patch = mock.patch.object(events, "time", wall)
        self.patch.start()
        self.is_ending = False
        self.all: dict[str, Entry] = {}
        self.owned: list[list[Entry]] = []
        self.hand: list[Entry] = []
        self.ever_refused: set[str] = set()
        self.last_words: Counter[str] = Counter()
        self.final_states: dict[str, State] = {}
        self.waiting: list[Waiter] = []
        self.telling: list[Waiter] = []
        #: These had their own limit while they were dead.
        self.retried = 0
        #: These may exceed the limit for dead events.
        self.adopted_dead = 0

    @initialize(drop_oldest=st.booleans(), reject=st.booleans(), ready=st.booleans())
    def open_ledger(self, drop_oldest: bool, reject: bool, ready: bool) -> None:
        changes = limits(
            max_events=MAX_EVENTS,
            max_dead_events=MAX_DEAD_EVENTS,
            max_bytes=MAX_BYTES,
            max_in_flight=MAX_IN_FLIGHT,
            drop_oldest=drop_oldest and not reject,
            reject=reject,
            dead_after=30.0,
            durable=self.durable,
        )
        self.ledger = Ledger(changes, self.clock)
        self.broker = BrokerState.IDLE
        if ready:
            self.on_state_change(BrokerState.READY)

    # Collectors

    @rule(target=collectors)
    def new_collector(self) -> list[Entry]:
        entries: list[Entry] = []
        self.owned.append(entries)
        return entries

    @rule(
        entries=collectors,
        queue=QUEUES,
        size=SIZES,
        events=st.integers(1, 5),
        times=TIMES,
    )
    def collect(
        self,
        entries: list[Entry],
        queue: str,
        size: int,
        events: int,
        times: Properties = NO_PROPERTIES,
    ) -> None:
        for _ in range(events):
            before = len(entries)
            event = replace(
                make_event(queue=queue, size=size, properties=times),
                microseconds=round(self.clock.now * 1e6),
            )
            if times.delay:
                # Once it is due, later ones may have been sent.
                self.ever_refused.add(event.id)
            notices: list[Notice] = []
            taken = self.ledger.collect(entries, event, into=notices)
            self.hear(notices)
            if len(entries) > before:
                self.all[event.id] = entries[-1]
            elif taken:
                assert self.final_states[event.id] is State.DROPPED

    @rule(entries=collectors)
    def discard(self, entries: list[Entry]) -> None:
        self.hear(notices_of(self.ledger.discard, entries, "cleared"))
        assert not entries

    @rule(entries=consumes(collectors))
    def abandon(self, entries: list[Entry]) -> None:
        abandon(self.ledger, entries)

    @rule()
    def discard_abandoned(self) -> None:
        self.hear(notices_of(self.ledger.discard_abandoned))
        assert not self.ledger._owners._abandoned

    @rule(entries=collectors)
    def hand_over(self, entries: list[Entry]) -> None:
        self.ledger.hand_over(entries)
        assert not entries

    @rule(queue=QUEUES, size=SIZES, events=st.integers(1, 5), times=TIMES)
    def collect_and_hand_over(
        self, queue: str, size: int, events: int, times: Properties
    ) -> None:
        entries = self.new_collector()
        self.collect(entries, queue, size, events, times)
        self.hand_over(entries)

    @rule(target=waiters, entries=collectors, patient=st.booleans())
    def publish(self, entries: list[Entry], patient: bool) -> Waiter:
        waiter = Waiter(patient=patient)
        self.ledger.hand_over(entries, waiter)
        self.waiting.append(waiter)
        return waiter

    @rule(target=released, waiter=consumes(waiters), ran_out=st.booleans())
    def stop_waiting(self, waiter: Waiter, ran_out: bool) -> Waiter:
        result = self.ledger.stop_waiting(waiter, ran_out=ran_out)
        self.waiting.remove(waiter)
        self.telling.append(waiter)
        assert result.confirmed + result.in_flight + result.retained + (
            result.dead + result.dropped + result.delayed
        ) == len(waiter.entries)
        return waiter

    @rule(waiter=consumes(released))
    def let_go(self, waiter: Waiter) -> None:
        self.telling.remove(waiter)
        self.hear(waiter.notices)
        self.ledger.let_go(waiter)

    # The broker

    @rule(limit=st.integers(1, 6))
    def take(self, limit: int) -> None:
        if self.broker is not BrokerState.READY:
            return
        is_quiet = not self.ledger._traffic._is_busy(self.clock.now)
        taken = self.ledger.take(limit)
        assert len(taken) <= limit
        for entry in taken:
            assert self.final_states.get(entry.event.id) is None, "it had ended"
            assert entry not in self.hand, "it was in flight"
            assert self.is_ending or not entry.event.due_in, "it was not due"
            assert_goes_in_order(entry, self.hand, self.all, self.ever_refused)
            self.hand.append(entry)
        is_scout = is_quiet and len(taken) == 1
        # Those of a target that was silent count again once it is heard.
        if taken and not is_scout:
            self.the_window_holds()

    @rule()
    def deliver(self) -> None:
        self.take(MAX_IN_FLIGHT)
        self.settle(list(self.hand), Outcome.CONFIRMED)

    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        self.answer(data, Outcome.CONFIRMED)

    @rule(data=st.data(), outcome=st.sampled_from([Outcome.NACKED, Outcome.RETURNED]))
    def refuse(self, data: st.DataObject, outcome: Outcome) -> None:
        self.answer(data, outcome)

    @rule(data=st.data())
    def refuse_for_good(self, data: st.DataObject) -> None:
        self.answer(data, Outcome.NACKED, final=True)

    @rule(queue=QUEUES, sent=st.booleans(), back_off=st.booleans())
    def lose_channel(self, queue: str, sent: bool, back_off: bool) -> None:
        lost = [e for e in self.hand if e.target == Target("", queue)]
        self.settle(lost, Outcome.UNKNOWN if sent else None, back_off=back_off)

    @rule()
    def lose_connection(self) -> None:
        self.settle(list(self.hand), Outcome.UNKNOWN)
        self.on_state_change(BrokerState.DOWN)

    @rule(state=st.sampled_from(STATES))
    def on_state_change(self, state: BrokerState) -> None:
        lost = self.hand
        self.ledger.on_state_change(state)
        self.broker = state
        if state is BrokerState.DOWN:
            # The ledger has settled them; a late settlement is ignored.
            self.hand = []
            self.settle(lost, Outcome.UNKNOWN)

    def answer(
        self, data: st.DataObject, outcome: Outcome, *, final: bool = False
    ) -> None:
        if self.hand:
            some = data.draw(
                st.lists(st.sampled_from(self.hand), unique=True, min_size=1)
            )
            self.settle(some, outcome, final=final)

    def settle(
        self,
        entries: list[Entry],
        outcome: Outcome | None,
        *,
        final: bool = False,
        back_off: bool = False,
    ) -> None:
        if outcome in (Outcome.NACKED, Outcome.RETURNED):
            self.ever_refused |= {entry.event.id for entry in entries}
        settlements = [
            Settlement(e, outcome, "no", final=final, back_off=back_off)
            for e in entries
        ]
        self.ledger.settle(settlements)
        self.hand = [entry for entry in self.hand if entry not in entries]
        # A second settlement of the same event is ignored.
        self.ledger.settle(settlements)

    # Time, and the application

    @rule(seconds=st.sampled_from([0.001, 10.0, 31.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def keep_time(self) -> None:
        self.ledger.keep_time()
        delayed = [e for e in self.all.values() if e.state is State.DELAYED]
        assert all(entry.event.due_in for entry in delayed)
        # What has come back since it expired in flight is noticed a second later.
        self.clock.advance(1.0)
        self.ledger.keep_time()
        retained = [e for e in self.all.values() if e.state is State.RETAINED]
        assert all(entry.event.time_left != 0 for entry in retained)

    @rule()
    def reopen(self) -> None:
        self.ledger.reopen()

    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        self.hear(notices_of(self.ledger.purge, self.some_ids(data)))

    @rule(data=st.data(), everything=st.booleans())
    def retry(self, data: st.DataObject, everything: bool) -> None:
        before = self.count(State.DEAD)
        ids = None if everything else self.some_ids(data)
        retried = self.ledger.retry(ids)
        assert retried == before - self.count(State.DEAD)
        self.retried += retried

    @rule(data=st.data(), queue=QUEUES)
    def redirect(self, data: st.DataObject, queue: str) -> None:
        dead = self.count(State.DEAD)
        states = (State.DELAYED, State.RETAINED, State.DEAD)
        idle = [e for e in self.all.values() if e.state in states]
        ids = self.some_ids(data)
        redirected = {entry for entry in idle if entry.event.id in ids}
        assert self.ledger.redirect(ids, queue) == len(redirected)
        assert {entry.target.queue for entry in redirected} <= {queue}
        # What is in flight for the new target may have been enqueued later.
        self.ever_refused |= {entry.event.id for entry in redirected}
        self.retried += dead - self.count(State.DEAD)

    @rule()
    def drop_all(self) -> None:
        kept = [e for e in self.handed_over() if self.is_on_disk(e)]
        self.hear(notices_of(self.ledger.drop_all, "the end"))
        assert self.handed_over() == kept
        ghosts = [entry for entry in self.hand if entry not in kept]
        self.settle(ghosts, Outcome.CONFIRMED)

    def handed_over(self) -> list[Entry]:
        return [e for e in self.all.values() if e.state in HANDED_OVER]

    def is_on_disk(self, entry: Entry) -> bool:
        return False

    def some_ids(self, data: st.DataObject) -> list[str]:
        ids = [*self.all, "unknown"]
        return data.draw(st.lists(st.sampled_from(ids), max_size=3))

    # Invariants

    @invariant()
    def all_is_well(self) -> None:
        self.the_books_balance()
        self.each_event_has_one_owner()
        self.each_last_word_is_told_once()
        self.callers_wait_only_for_what_may_come()

    def the_books_balance(self) -> None:
        stats = self.ledger.stats()
        assert stats.balanced
        for state in (State.COLLECTED, *HANDED_OVER):
            assert getattr(stats, state.name.lower()) == self.count(state)
        living = [e for e in self.all.values() if e.state.alive]
        assert stats.held_bytes == sum(e.event.size for e in living)
        dead = self.count(State.DEAD)
        assert len(living) - dead <= MAX_EVENTS + self.retried
        assert dead <= MAX_DEAD_EVENTS + self.adopted_dead

    def each_event_has_one_owner(self) -> None:
        owned = [e for entries in self.owned for e in entries]
        assert len(owned) == len(set(owned))
        collected = {e for e in self.all.values() if e.state is State.COLLECTED}
        assert collected == {e for e in owned if e.state is State.COLLECTED}
        in_flight = {e for e in self.all.values() if e.state is State.IN_FLIGHT}
        assert in_flight == set(self.hand)

    def the_window_holds(self) -> None:
        busy = self.heard_in_flight()
        assert len(busy) <= MAX_IN_FLIGHT
        size = sum(entry.event.size for entry in busy)
        assert size <= MAX_IN_FLIGHT_BYTES or self.went_alone()

    def heard_in_flight(self) -> list[Entry]:
        """The events in flight for targets that are not silent."""
        traffic = self.ledger._traffic
        return [e for e in self.hand if not traffic.is_silent(traffic.lane(e.target))]

    def went_alone(self) -> bool:
        larger = [e for e in self.hand if e.event.size > MAX_IN_FLIGHT_BYTES]
        others = [e for e in self.hand if e not in larger]
        # Small ones were in flight before: never when a large one is sent.
        return len(larger) == 1 and all(e.event.size == 0 for e in others)

    def each_last_word_is_told_once(self) -> None:
        self.hear(drain(self.ledger))
        signalled = set(self.final_states)
        successors = (w.successor for w in self.telling if w.successor is not None)
        for waiter in [*self.waiting, *self.telling, *successors]:
            signalled |= {n.event.id for n in waiter.notices if n.kind in FINAL_STATES}
        ended = {id for id, entry in self.all.items() if not entry.state.alive}
        assert ended == signalled & set(self.all)
        for id, state in self.final_states.items():
            assert id not in self.all or self.all[id].state is state

    def callers_wait_only_for_what_may_come(self) -> None:
        for waiter in self.waiting:
            assert waiter.done.is_set() == (not waiter.pending)
            for entry in waiter.pending:
                assert entry.state in (State.RETAINED, State.IN_FLIGHT)

    def hear(self, notices: list[Notice]) -> None:
        for item in notices:
            if item.kind in FINAL_STATES:
                assert item.event.id not in self.final_states, "a second final signal"
                self.final_states[item.event.id] = FINAL_STATES[item.kind]

    def count(self, *states: State) -> int:
        return sum(entry.state in states for entry in self.all.values())

    # The end

    def teardown(self) -> None:
        """With a broker that accepts everything, all waiting events are confirmed."""
        try:
            if hasattr(self, "ledger"):
                self.finish()
        finally:
            self.patch.stop()

    def finish(self) -> None:
        self.is_ending = True
        self.ledger.end_delays()
        self.lose_connection()
        self.on_state_change(BrokerState.READY)
        for _ in range(10 * MAX_EVENTS):
            due = self.ledger.due()
            if due is None:
                break
            self.clock.advance(due)
            self.take(MAX_EVENTS)
            self.settle(list(self.hand), Outcome.CONFIRMED)
        assert self.count(State.RETAINED, State.IN_FLIGHT) == 0
        self.the_books_balance()
        # Lanes that became empty in another way are removed by the next step.
        self.take(MAX_EVENTS)
        assert self.ledger._traffic.lanes == {}


def assert_goes_in_order(
    entry: Entry, hand: list[Entry], known: dict[str, Entry], refused: set[str]
) -> None:
    """No event is overtaken by another for the same target, unless it was refused."""
    if entry.event.id in refused:
        return
    for other in known.values():
        if other.target != entry.target or other.event.id in refused:
            continue
        if other.state is State.RETAINED:
            assert other.sequence > entry.sequence, "it was overtaken"
        if other in hand:
            assert other.sequence < entry.sequence, "it went back"


SETTINGS = settings(
    max_examples=80,
    stateful_step_count=80,
    # The explanation of a failure takes minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
TestLedger = LedgerMachine.TestCase
TestLedger.settings = SETTINGS
