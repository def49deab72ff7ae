"""No event is lost for any sequence of events in a process and its successors."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from flask_eventcollector.app_state import AppState
from flask_eventcollector.app_state import state as state_module
from flask_eventcollector.collecting.collector import Collector
from flask_eventcollector.delivery.broker import BrokerCallbacks
from flask_eventcollector.delivery.delivery import Delivery
from flask_eventcollector.delivery.entries import Entry, Settlement
from flask_eventcollector.errors import BacklogFull
from flask_eventcollector.events import BrokerState, Event, Outcome, Stats
from tests.helpers import DEADLINE, SIGNALS, Shop, in_child, thread, wait_until

# Newer Pythons warn about forks while threads run. These tests show that it works.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

QUEUES = st.sampled_from(["a", "b", "c"])
# The items at these positions. Threads may vary the number of items, but Hypothesis
# needs the same draws in the same order.
PLACES = st.lists(st.integers(0, 5), unique=True, min_size=1)
STATES = st.sampled_from([BrokerState.READY, BrokerState.BLOCKED, BrokerState.DOWN])
REFUSALS = st.sampled_from([Outcome.NACKED, Outcome.RETURNED])
UNITS = st.integers(0, 2)
MAX_EVENTS = 16
#: A process that ends immediately has few events to lose.
FEWEST_STEPS = 10
MAX_IN_FLIGHT = 4
#: Seconds for calls that must not wait for a silent broker.
SOON = 0.02
#: Seconds by which a flush or a close may exceed its timeout: two disk accesses, three
#: threads to stop, and a busy machine.
GRACE = 5.0
FINAL_STATES = {
    "events_published": "confirmed",
    "events_discarded": "discarded",
    "events_dropped": "dropped",
}
OPTIONS = {
    "TESTING_BROKER": True,
    "BROKER_URL": "amqp://127.0.0.1:1/",  # No connection is made to it.
    "MAX_EVENTS": MAX_EVENTS,
    "MAX_IN_FLIGHT": MAX_IN_FLIGHT,
    # Nothing is retried before it is requested.
    "RETRY_DELAY": 1e9,
    "RETRY_MAX_DELAY": 1e9,
}


class ModelBroker:
    """A broker that is controlled by the machine's steps.

    The library's threads only wake it. It takes nothing unless it was woken.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self.state = BrokerState.READY
        self.hand: list[Entry] = []
        #: Whether it settles events in flight when it is closed.
        self.ends_well = True
        self._woken = threading.Event()
        self._callbacks: BrokerCallbacks | None = None

    # Called by the library.

    def start(self, callbacks: BrokerCallbacks) -> None:
        if self._callbacks is None:
            self._callbacks = callbacks
            callbacks.on_state_change(self.state)

    def wake(self) -> None:
        self._woken.set()

    def reconnect_now(self) -> None:
        """Only the machine makes it ready."""

    def reconnect_soon(self, seconds: float = 0.0) -> None:
        """Only the machine makes it ready."""

    def close(self, timeout: float) -> bool:
        self.state = BrokerState.CLOSED
        if self.ends_well:
            self.settle(self.hand, Outcome.UNKNOWN)
        return True

    # Called by the machine.

    @property
    def can_take(self) -> bool:
        """Whether it was woken to take events."""
        return self.state is BrokerState.READY and self._woken.is_set()

    def becomes(self, state: BrokerState) -> None:
        """Report a new state; events in flight are lost with the connection."""
        if state is BrokerState.DOWN:
            self.settle(self.hand, Outcome.UNKNOWN)
        self.state = state
        if self._callbacks is not None:
            self._callbacks.on_state_change(state)
        if state is BrokerState.READY:
            self.wake()

    def take(self, limit: int) -> list[Entry]:
        """Take events, and continue later if there may be more."""
        if self._callbacks is None or not self.can_take:
            return []
        self._woken.clear()
        taken = self._callbacks.take(limit)
        self._history.note_taken(taken, self.hand)
        self.hand += taken
        if len(taken) == limit:
            self.wake()
        return taken

    def settle(
        self, entries: Sequence[Entry], outcome: Outcome | None, **more: Any
    ) -> None:
        """Settle some events with the same outcome, and once more, which is ignored."""
        if self._callbacks is None:
            return
        settlements = [Settlement(entry, outcome, "no", **more) for entry in entries]
        self.hand = [entry for entry in self.hand if entry not in entries]
        if outcome is Outcome.CONFIRMED:
            self._history.confirmed.update(entry.event.id for entry in entries)
        if self._callbacks.settle(settlements):
            self.wake()
        self._callbacks.settle(settlements)

    @contextmanager
    def answering(self, refused: Sequence[str] = ()) -> Iterator[None]:
        """Confirm everything, in a separate thread, during the block.

        It is slightly slow, so that callers that do not wait have returned before.
        """
        ended = threading.Event()

        def answer() -> None:
            ended.wait(SOON)
            while not ended.is_set():
                assert self._woken.wait(2 * DEADLINE)
                while self.hand or self.take(MAX_IN_FLIGHT):
                    no = [e for e in self.hand if e.event.target_queue in refused]
                    yes = [entry for entry in self.hand if entry not in no]
                    self.settle(no, Outcome.NACKED)
                    self.settle(yes, Outcome.CONFIRMED)

        self.wake()
        with thread(answer):
            try:
                yield
            finally:
                ended.set()
                self.wake()


class Heard:
    """Records the signals. It has no lock that a forked child could find locked."""

    def __init__(self) -> None:
        self._signals: deque[tuple[str, str]] = deque()
        self._receivers = {name: partial(self._receive, name) for name in SIGNALS}

    def _receive(self, name: str, sender: Any, **about: Any) -> None:
        events: Sequence[Event] = about.get("events", ())
        self._signals.extend((name, event.id) for event in events)

    def connect(self, shop: Shop) -> None:
        for name, receiver in self._receivers.items():
            SIGNALS[name].connect(receiver, sender=shop)

    def disconnect(self, shop: Shop) -> None:
        for name, receiver in self._receivers.items():
            SIGNALS[name].disconnect(receiver, sender=shop)

    def take(self) -> list[tuple[str, str]]:
        """The signals since the last call, with ids."""
        return [self._signals.popleft() for _ in range(len(self._signals))]


class History:
    """Everything known about all events, in any process."""

    def __init__(self) -> None:
        self.queues: dict[str, str] = {}
        #: The process of each event's hand-over, in the order of the hand-overs.
        self.handed_over: dict[str, int] = {}
        self.final_states: dict[str, str] = {}
        #: What the broker has confirmed, whether or not it was reported yet.
        self.confirmed: set[str] = set()
        self.dead: set[str] = set()
        #: Events that were refused or retried on request, which may be overtaken.
        self.refused: set[str] = set()

    def note_final(self, id: str, state: str) -> None:
        """Note an event's final signal."""
        assert id not in self.final_states, (
            f"{self.final_states[id]} before, {state} now"
        )
        assert (state == "confirmed") == (id in self.confirmed)
        self.final_states[id] = state
        self.dead.discard(id)

    def alive(self) -> list[str]:
        """The events that were handed over and are not final, in order."""
        return [id for id in self.handed_over if id not in self.final_states]

    def note_taken(self, taken: Sequence[Entry], hand: Sequence[Entry]) -> None:
        """The broker has taken events: nothing is sent twice or overtaken."""
        in_flight = [entry.event.id for entry in hand]
        for entry in taken:
            id = entry.event.id
            assert id in self.handed_over, "nobody has published it"
            assert id not in in_flight, "it was in flight"
            assert id not in self.confirmed, "it was confirmed"
            assert id not in self.final_states, "it had ended"
            self._see_in_order(id, in_flight)
            in_flight.append(id)

    def _see_in_order(self, id: str, in_flight: Sequence[str]) -> None:
        if id in self.refused:
            return
        neighbours = [
            other
            for other in self.alive()
            if other not in self.confirmed | self.refused
            and (self.queues[other], self.handed_over[other])
            == (self.queues[id], self.handed_over[id])
        ]
        for before in neighbours[: neighbours.index(id)]:
            assert before in in_flight, "it has overtaken another"
        for behind in neighbours[neighbours.index(id) :]:
            assert behind not in in_flight, "it went back"


class Unit:
    """A unit of work: a collector with the ids of what it should hold."""

    def __init__(self, collector: Collector) -> None:
        self.collector: Collector | None = collector
        self.ids: list[str] = []


class ProcessMachine(RuleBasedStateMachine):
    """Units of work, calls by the application and a broker, in successive processes.

    A process ends with its `close()`. The next one begins with a new app, which finds
    on disk what the last one has left. Forked children are real.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history, self.heard = History(), Heard()
        self.processes = 0
        self.forks = 0
        #: The events that earlier processes and children have left on disk.
        self.left = 0
        self._folder = TemporaryDirectory()
        self._patch = patch.object(state_module, "broker_of", self.make_broker)
        self._patch.start()

    def make_broker(self, *parameters: object) -> ModelBroker:
        self.broker = ModelBroker(self.history)
        return self.broker

    @initialize(
        spool=st.booleans(),
        overflow=st.sampled_from(["drop-newest", "drop-oldest", "reject"]),
        confirm_timeout=st.sampled_from([0, 0.01]),
    )
    def begin(self, spool: bool, overflow: str, confirm_timeout: float) -> None:
        self.spool = spool
        self.options: dict[str, Any] = OPTIONS | {
            "OVERFLOW": overflow,
            "CONFIRM_TIMEOUT": confirm_timeout,
            "BACKLOG": "spool" if spool else "memory",
            "SPOOL_DIR": self._folder.name,
        }
        self.begin_process()

    def begin_process(self) -> None:
        self.processes += 1
        self.steps = 0
        self.enqueued = 0
        self.counts_here: Counter[str] = Counter()
        self.shop = Shop(name="machine", **self.options)
        self.events = self.shop.events
        state = self.shop.extensions["eventcollector"]
        assert isinstance(state, AppState)
        self.state = state
        self.heard.connect(self.shop)
        self.delivery: Delivery = state.delivery()
        self.delivery.start()
        self.has_lost_channels = False
        self.units = [self.new_unit() for _ in range(3)]

    def new_unit(self) -> Unit:
        return Unit(self.state.scopes.new_collector())

    # Units of work

    @rule(place=UNITS, queue=QUEUES, count=st.integers(1, 6))
    def enqueue(self, place: int, queue: str, count: int) -> None:
        unit = self.units[place]
        assert unit.collector is not None
        for _ in range(count):
            try:
                event = unit.collector.enqueue_event("payload", queue)
            except BacklogFull:
                assert self.options["OVERFLOW"] == "reject"
                assert self.delivery.stats().held_bytes
                continue
            self.enqueued += 1
            self.history.queues[event.id] = queue
            self.listen()
            if event.id in self.history.final_states:
                assert self.options["OVERFLOW"] != "reject"
            else:
                unit.ids.append(event.id)

    @rule(place=UNITS)
    def clear(self, place: int) -> None:
        unit = self.units[place]
        assert unit.collector is not None
        assert unit.collector.clear_events_to_publish() == len(unit.ids)
        self.expect(unit.ids, "discarded")
        unit.ids = []

    @rule(place=UNITS)
    def abandon(self, place: int) -> None:
        unit, self.units[place] = self.units[place], self.new_unit()
        unit.collector = None
        self.delivery.stats()
        # The flusher may be about to signal it.
        wait_until(lambda: self.have_ended(unit.ids), "the final signal")
        self.expect(unit.ids, "discarded")

    @rule(place=UNITS, queue=QUEUES, timeout=st.sampled_from([None, 0, SOON]))
    def publish(self, place: int, queue: str, timeout: float | None) -> None:
        self.enqueue(place, queue, 2)
        unit = self.units[place]
        assert unit.collector is not None
        ids = self.hand_over_ids(unit)
        result = unit.collector.publish(timeout)
        self.listen()
        ended = [self.history.final_states.get(id) for id in ids]
        assert result.confirmed == ended.count("confirmed")
        assert result.dropped == ended.count("dropped")
        left = result.in_flight + result.retained + result.dead
        assert left == ended.count(None)

    @rule(place=UNITS, queue=QUEUES, count=st.integers(1, 6))
    def publish_without_waiting(self, place: int, queue: str, count: int) -> None:
        self.enqueue(place, queue, count)
        unit = self.units[place]
        assert unit.collector is not None
        self.hand_over_ids(unit)
        unit.collector.hand_over()

    @rule(place=UNITS, queue=QUEUES)
    def publish_while_the_broker_answers(self, place: int, queue: str) -> None:
        self.enqueue(place, queue, 2)
        unit = self.units[place]
        assert unit.collector is not None
        ids = self.hand_over_ids(unit)
        began = time.monotonic()
        self.broker.becomes(BrokerState.READY)
        with self.broker.answering():
            result = unit.collector.publish(DEADLINE)
        assert time.monotonic() - began < DEADLINE
        if not (self.history.refused or self.has_lost_channels):
            # No caller waits behind a target that backs off.
            assert result.confirmed == len(ids)

    def hand_over_ids(self, unit: Unit) -> list[str]:
        ids, unit.ids = unit.ids, []
        self.history.handed_over |= dict.fromkeys(ids, self.processes)
        return ids

    # The broker

    @rule(limit=st.integers(1, 6))
    def take(self, limit: int) -> None:
        self.broker.take(limit)

    @rule(places=PLACES)
    def confirm(self, places: list[int]) -> None:
        self.broker.settle(self.some_of_the_hand(places), Outcome.CONFIRMED)

    @rule(places=PLACES, outcome=REFUSALS)
    def refuse(self, places: list[int], outcome: Outcome) -> None:
        some = self.some_of_the_hand(places)
        self.history.refused.update(entry.event.id for entry in some)
        self.broker.settle(some, outcome)

    @rule(places=PLACES, outcome=REFUSALS)
    def refuse_for_good(self, places: list[int], outcome: Outcome) -> None:
        some = self.some_of_the_hand(places)
        self.history.refused.update(entry.event.id for entry in some)
        self.broker.settle(some, outcome, final=True)

    @rule(queue=QUEUES, sent=st.booleans())
    def lose_channel(self, queue: str, sent: bool) -> None:
        lost = [e for e in self.broker.hand if e.event.target_queue == queue]
        self.has_lost_channels |= bool(lost)
        self.broker.settle(lost, Outcome.UNKNOWN if sent else None, back_off=True)

    @rule(state=STATES)
    def becomes(self, state: BrokerState) -> None:
        self.broker.becomes(state)

    def some_of_the_hand(self, places: Sequence[int]) -> list[Entry]:
        if not self.broker.hand:
            self.broker.take(MAX_IN_FLIGHT)
        hand = self.broker.hand
        return [hand[place] for place in places if place < len(hand)]

    # The application

    @rule(everything=st.booleans(), places=PLACES)
    def retry(self, everything: bool, places: list[int]) -> None:
        dead = {each.event.id for each in self.events.dead()}
        ids = dead if everything else set(self.some_ids(places))
        assert self.events.retry(None if everything else ids) == len(ids & dead)
        self.history.dead -= ids & dead

    @rule(places=PLACES)
    def purge(self, places: list[int]) -> None:
        before = self.counts_here["dropped"]
        count = self.events.purge(self.some_ids(places))
        self.listen()
        assert self.counts_here["dropped"] - before == count

    @rule()
    def flush_in_vain(self) -> None:
        with self.in_time(SOON):
            flushed = self.events.flush(SOON)
        stats = self.events.stats()
        assert not (flushed and stats.in_flight + stats.retained)

    @rule(refused=st.lists(QUEUES, max_size=1))
    def flush(self, refused: list[str]) -> None:
        if not self.has_room:
            return
        self.broker.becomes(BrokerState.READY)
        self.broker.take(MAX_IN_FLIGHT)
        with self.in_time(DEADLINE - GRACE), self.refusing(refused):
            flushed = self.events.flush(DEADLINE)
        stats = self.events.stats()
        left = [id for id in self.history.alive() if id not in self.history.dead]
        assert flushed == (not left)
        assert flushed == (not stats.in_flight + stats.retained + stats.unadopted)
        assert all(self.history.queues[id] in refused for id in left)

    @contextmanager
    def refusing(self, queues: Sequence[str]) -> Iterator[None]:
        """Have the broker respond, and refuse events for some queues."""
        waiting = [id for id in self.history.alive() if self.queue(id) in queues]
        self.history.refused.update(waiting)
        with self.broker.answering(queues):
            yield
        self.delivery.notify_pending()
        self.listen()

    @property
    def has_room(self) -> bool:
        """Whether events on disk can be read into memory."""
        stats = self.delivery.stats()
        held = stats.collected + stats.dead + stats.retained + stats.in_flight
        return held + self.left < MAX_EVENTS

    def queue(self, id: str) -> str:
        return self.history.queues[id]

    def some_ids(self, places: Sequence[int]) -> list[str]:
        alive = self.history.alive()
        return [alive[place] for place in places if place < len(alive)] + ["unknown"]

    @contextmanager
    def in_time(self, timeout: float) -> Iterator[None]:
        began = time.monotonic()
        yield
        assert time.monotonic() - began < timeout + GRACE

    # The end of a process, and the next one

    @precondition(lambda self: self.steps >= FEWEST_STEPS)
    @rule(ends_well=st.booleans(), goes_on=st.booleans())
    def close(self, ends_well: bool, goes_on: bool) -> None:
        self.broker.ends_well = ends_well
        with self.in_time(SOON):
            delivered = self.events.close(SOON)
        self.has_ended(delivered)
        if goes_on:
            self.go_on_after_the_end()
        self.begin_the_next_process()

    @precondition(lambda self: self.steps >= FEWEST_STEPS)
    @rule()
    def close_while_the_broker_answers(self) -> None:
        if not self.has_room:
            return
        self.broker.becomes(BrokerState.READY)
        with self.in_time(DEADLINE - GRACE), self.broker.answering():
            delivered = self.events.close(DEADLINE)
        assert delivered or (self.history.dead and not self.spool)
        self.has_ended(delivered)
        self.begin_the_next_process()

    def has_ended(self, delivered: bool) -> None:
        for each in threading.enumerate():
            if each.name.startswith("eventcollector-") and "machine" in each.name:
                each.join(DEADLINE)
                assert not each.is_alive(), f"{each.name} goes on"
        dropped = self.counts_here["dropped"]
        self.listen()
        for unit in self.units:
            self.expect(unit.ids, "discarded")
            unit.ids = []
        waits_on_disk = set(self.history.alive()) - self.history.dead
        assert self.spool or not self.history.alive()
        dropped = self.counts_here["dropped"] - dropped
        assert delivered == (not (waits_on_disk or dropped))
        assert not (self.spool and dropped)
        # It sends no more signals; its events are dropped or on disk.
        self.broker.hand = [e for e in self.broker.hand if e.state.alive]
        self.the_books_balance()

    def go_on_after_the_end(self) -> None:
        """A thread still uses the closed app: its events are on disk, or dropped."""
        left = self.history.alive()
        self.publish_without_waiting(0, "a", 3)
        self.listen()
        late = [id for id in self.history.alive() if id not in left]
        assert self.spool or not late
        # They are in a file of their own, so they may overtake the others.
        self.history.handed_over |= dict.fromkeys(late, 1000 + self.processes)
        self.enqueue(1, "a", 1)
        assert self.events.purge(left) == 0
        self.events.close(0)
        self.expect(self.units[1].ids, "discarded")
        self.units[1].ids = []
        assert self.history.alive() == left + late
        self.the_books_balance()

    def begin_the_next_process(self) -> None:
        self.heard.disconnect(self.shop)
        self.left = len(self.history.alive())
        self.begin_process()

    # Fork

    @precondition(lambda self: self.forks < 2)
    @rule(place=UNITS, queue=QUEUES, count=st.integers(1, 3), away=st.booleans())
    def fork(self, place: int, queue: str, count: int, away: bool) -> None:
        self.forks += 1
        self.enqueue(place, queue, 1)
        report = in_child(lambda: self.be_a_child(place, queue, count, away))
        for id in report["own"]:
            self.history.queues[id] = queue
        for id, state in report["final"]:
            if state == "confirmed":
                self.history.confirmed.add(id)
            self.history.note_final(id, state)
        if self.spool:
            self.history.handed_over |= dict.fromkeys(report["own"], -self.forks)
        else:
            assert len(report["final"]) == count
        self.left += len(report["own"]) - len(report["final"])
        if away:
            # Find what the child has left, without waiting for the next scan.
            self.flush([])

    def be_a_child(
        self, place: int, queue: str, count: int, away: bool
    ) -> dict[str, Any]:
        """The child has none of its parent's events, and publishes its own."""
        self.heard.take()
        parents, unit = self.broker, self.units[place]
        assert unit.collector is not None
        assert self.events.stats() == Stats()
        assert unit.collector.events_to_publish == ()
        assert unit.collector.clear_events_to_publish() == 0
        own = [unit.collector.enqueue_event("child", queue).id for _ in range(count)]
        assert self.broker is not parents
        self.history.queues |= dict.fromkeys(own, queue)
        self.history.handed_over |= dict.fromkeys(own, -self.forks)
        if away:
            self.broker.becomes(BrokerState.DOWN)
            unit.collector.publish()
            self.events.close(0)
        else:
            with self.broker.answering():
                assert unit.collector.publish(DEADLINE).confirmed == count
                assert self.events.close(DEADLINE)
        heard = self.heard.take()
        final = [(id, FINAL_STATES[name]) for name, id in heard if name in FINAL_STATES]
        stats = self.events.stats()
        assert stats.balanced
        assert stats.enqueued == count
        return {"own": own, "final": final}

    # Invariants

    @invariant()
    def all_is_well(self) -> None:
        self.steps += 1
        self.wait_for_the_disk()
        self.listen()
        self.each_event_has_one_owner()
        self.the_books_balance()

    def wait_for_the_disk(self) -> None:
        """Have the spool adopt everything that fits, so that steps are atomic."""
        before = -1
        while before < (now := self.delivery.stats().adopted) < self.left:
            before = now
            self.delivery._store.scan(DEADLINE)

    def listen(self) -> None:
        """Collect the signals, once the notifying thread has finished."""
        self.delivery.notify_pending()
        collected = {id for unit in self.units for id in unit.ids}
        for name, id in self.heard.take():
            if name in FINAL_STATES:
                self.history.note_final(id, FINAL_STATES[name])
                self.counts_here[FINAL_STATES[name]] += 1
            elif name == "events_dead":
                assert id not in self.history.dead
                self.history.dead.add(id)
            if name == "events_dropped":
                assert id not in collected, "a collector held it"

    def have_ended(self, ids: Sequence[str]) -> bool:
        self.listen()
        return all(id in self.history.final_states for id in ids)

    def expect(self, ids: Sequence[str], state: str) -> None:
        self.listen()
        assert [self.history.final_states.get(id) for id in ids] == [state] * len(ids)

    def each_event_has_one_owner(self) -> None:
        for unit in self.units:
            assert unit.collector is not None
            held = [event.id for event in unit.collector.events_to_publish]
            assert held == unit.ids
        alive = self.history.alive()
        hand = [entry.event.id for entry in self.broker.hand]
        assert set(hand) <= set(alive)
        assert len(hand) <= MAX_IN_FLIGHT
        dead = {each.event.id for each in self.events.dead()}
        assert dead <= self.history.dead
        assert not dead.intersection(hand)

    def the_books_balance(self) -> None:
        stats = self.delivery.stats()
        assert stats.balanced
        assert stats.enqueued == self.enqueued
        assert stats.collected == sum(len(unit.ids) for unit in self.units)
        for state in FINAL_STATES.values():
            assert getattr(stats, state) == self.counts_here[state]
        assert stats.in_flight == len(self.broker.hand)
        held = stats.in_flight + stats.retained + stats.dead
        assert 0 <= stats.adopted <= self.left
        assert held + self.left - stats.adopted == len(self.history.alive())

    # The end

    def teardown(self) -> None:
        """With a broker that accepts everything, every event gets a final signal."""
        try:
            if hasattr(self, "shop"):
                self.deliver_the_rest()
        finally:
            self._patch.stop()
            if hasattr(self, "shop"):
                self.heard.disconnect(self.shop)
                self.events.close(0)
            self._folder.cleanup()

    def deliver_the_rest(self) -> None:
        for place in range(len(self.units)):
            self.clear(place)
        dropped = sum(
            state == "dropped" for state in self.history.final_states.values()
        )
        for _ in range(2):
            self.broker.becomes(BrokerState.READY)
            self.deliver_all()
            self.has_ended(self.events.close(DEADLINE))
            self.begin_the_next_process()
        counts = Counter(self.history.final_states.values())
        assert counts["dropped"] == dropped
        assert set(self.history.final_states) == set(self.history.queues)
        assert os.listdir(self._folder.name) == [], "files are left"

    def deliver_all(self) -> None:
        """Retry everything, including dead events, until it is delivered."""
        deadline = time.monotonic() + DEADLINE
        with self.broker.answering():
            while not self.events.flush(1) or self.events.dead():
                if time.monotonic() > deadline:
                    # Reports of the broker's thread come first.
                    break
                self.events.retry()
        self.history.dead.clear()
        assert self.events.flush(0), self.events.stats()


TestProcess = pytest.mark.slow(ProcessMachine.TestCase)
TestProcess.settings = settings(
    max_examples=30,
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow],
    # No shrinking, since each run of an example that hangs takes long.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
