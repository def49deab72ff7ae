"""Features of the broker inside the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from flask_eventcollector.brokers import memory
from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.config.exchanges import parse_exchanges
from flask_eventcollector.config.queues import parse_queues
from flask_eventcollector.config.topology import Topology
from flask_eventcollector.delivery import broker as broker_module
from flask_eventcollector.delivery import delivery as delivery_module
from flask_eventcollector.delivery import periodic_worker
from flask_eventcollector.delivery.delivery import Delivery
from flask_eventcollector.delivery.entries import Entry, Settlement
from flask_eventcollector.delivery.threads import is_own_thread
from flask_eventcollector.events import BrokerState, Event, Outcome
from flask_eventcollector.messages.amqp_fields import POSSIBLE_DUPLICATE
from flask_eventcollector.testing import FaultInjector
from tests.helpers import DEADLINE, Recorder, Shop, open_shop, thread
from tests.parts import (
    LEDGER_MODULES,
    SignalLog,
    books,
    collect,
    delivering,
    interruptions,
    make_event,
)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def delivery(broker: MemoryBroker) -> Iterator[Delivery]:
    with delivering(broker) as delivery:
        yield delivery


def publish(delivery: Delivery, *payloads: object, queue: str = "q") -> None:
    delivery.publish(collect(delivery, *payloads, queue=queue))


def payloads(events: tuple[Event, ...]) -> list[object]:
    return [event.payload for event in events]


def test_a_consumer_gets_the_oldest_event_first(
    broker: MemoryBroker, delivery: Delivery
) -> None:
    publish(delivery, 1, 2)
    got = [broker.get("q"), broker.get("q")]
    assert [event.payload for event in got if event] == [1, 2]


def test_a_consumer_takes_events_out(broker: MemoryBroker, delivery: Delivery) -> None:
    publish(delivery, 1)
    broker.get("q")
    assert broker.get("q") is None


def test_looking_at_a_queue_takes_nothing_out(
    broker: MemoryBroker, delivery: Delivery
) -> None:
    publish(delivery, 1, 2)
    assert payloads(broker.events("q")) == payloads(broker.events("q")) == [1, 2]


def test_each_queue_has_its_own_events(
    broker: MemoryBroker, delivery: Delivery
) -> None:
    publish(delivery, 1, queue="one")
    publish(delivery, 2, queue="other")
    assert payloads(broker.events("one")) == [1]


def test_an_unknown_queue_is_empty(broker: MemoryBroker) -> None:
    assert (broker.get("unknown"), broker.events("unknown")) == (None, ())


def test_a_consumer_that_waits_gets_an_event_when_it_comes(
    broker: MemoryBroker, delivery: Delivery
) -> None:
    def answer() -> None:
        for _ in range(20):
            assert broker.get("questions", DEADLINE)
            publish(delivery, "yes", queue="answers")

    began = time.monotonic()
    with thread(answer):
        for _ in range(20):
            publish(delivery, "?", queue="questions")
            assert broker.get("answers", DEADLINE)
    assert time.monotonic() - began < DEADLINE


def test_a_consumer_waits_no_longer_than_its_timeout(broker: MemoryBroker) -> None:
    assert broker.get("q", 0.01) is None


def test_beyond_its_limit_it_forgets_the_oldest_events() -> None:
    broker = MemoryBroker(keep=3)
    with delivering(broker) as delivery:
        publish(delivery, 1, queue="one")
        publish(delivery, 2, 3, 4, 5, queue="other")
    assert payloads(broker.events("one")) == []
    assert payloads(broker.events("other")) == [3, 4, 5]


def test_what_was_consumed_makes_room() -> None:
    broker = MemoryBroker(keep=2)
    with delivering(broker) as delivery:
        publish(delivery, 1, 2)
        broker.get("q")
        publish(delivery, 3)
    assert payloads(broker.events("q")) == [2, 3]


def test_it_shows_its_state_and_no_payload(
    broker: MemoryBroker, delivery: Delivery
) -> None:
    publish(delivery, "secret")
    assert repr(broker) == "<MemoryBroker ready, 1 event>"


def test_it_confirms_before_a_publish_returns(delivery: Delivery) -> None:
    assert delivery.publish(collect(delivery, 1, 2)).confirmed == 2


def test_as_many_events_fail_as_planned(
    broker: MemoryBroker, delivery: Delivery
) -> None:
    FaultInjector.of(broker).fail_next(Outcome.NACKED, n=2)
    publish(delivery, 1, 2)
    assert broker.events("q") == ()
    assert delivery.flush(DEADLINE)
    assert payloads(broker.events("q")) == [1, 2]


def test_only_events_of_the_named_queue_fail(
    broker: MemoryBroker, delivery: Delivery
) -> None:
    FaultInjector.of(broker).fail_next(Outcome.NACKED, queue="one")
    publish(delivery, 1, queue="other")
    publish(delivery, 2, queue="one")
    assert (broker.events("one"), payloads(broker.events("other"))) == ((), [1])


def test_a_queue_is_refused_until_it_is_accepted(
    broker: MemoryBroker, delivery: Delivery
) -> None:
    FaultInjector.of(broker).refuse("q")
    publish(delivery, 1)
    assert not delivery.flush(DEADLINE)
    FaultInjector.of(broker).accept("q")
    assert delivery.flush(DEADLINE)


def test_outcomes_that_stay_unknown_delay_no_one_else(
    broker: MemoryBroker, delivery: Delivery
) -> None:
    FaultInjector.of(broker).refuse("q", Outcome.UNKNOWN)
    publish(delivery, 1)
    assert broker.events("q") == ()
    FaultInjector.of(broker).accept("q")
    assert delivery.flush(DEADLINE)
    assert payloads(broker.events("q")) == [1]


def test_a_confirm_is_no_failure_to_plan(broker: MemoryBroker) -> None:
    with pytest.raises(ValueError, match="other than CONFIRMED"):
        FaultInjector.of(broker).fail_next(Outcome.CONFIRMED)


def test_a_possible_duplicate_is_marked_and_keeps_its_headers(
    broker: MemoryBroker, delivery: Delivery
) -> None:
    FaultInjector.of(broker).fail_next(Outcome.UNKNOWN)
    entries = collect(delivery, 1)
    event = entries[0].event
    delivery.publish(entries, DEADLINE)
    (stored,) = broker.events("q")
    assert stored.headers == {**event.headers, POSSIBLE_DUPLICATE: True}
    assert stored.id == event.id


def test_a_closed_one_takes_nothing(broker: MemoryBroker, delivery: Delivery) -> None:
    publish(delivery, 1)
    assert broker.close(0)
    delivery.hand_over(collect(delivery, 2))
    assert payloads(broker.events("q")) == [1]


def test_it_can_be_down_before_its_first_event(broker: MemoryBroker) -> None:
    FaultInjector.of(broker).go_down()
    with delivering(broker) as delivery:
        publish(delivery, 1)
        assert delivery.stats().broker is BrokerState.DOWN
        FaultInjector.of(broker).come_up()
        assert books(delivery) == {"confirmed": 1}


MODULES = [
    *LEDGER_MODULES,
    broker_module,
    delivery_module,
    memory,
]
#: The repair itself is not interrupted.
SPARED = ["locked", "_mend", "mend", "_balance"]


def test_a_publish_that_is_cut_short_sends_nothing_twice_unmarked() -> None:
    for interruption in interruptions(MODULES, spared=SPARED):
        broker = MemoryBroker()
        with delivering(broker) as delivery:
            entries = collect(delivery, 1, 2, 3)
            with interruption:
                delivery.publish(entries)
            delivery.publish(entries)
            assert delivery.flush(DEADLINE), interruption.struck
            assert books(delivery) == {"confirmed": 3}
        assert_each_arrived_once_unmarked(broker, interruption.struck)


def test_after_an_interrupted_publish_the_flusher_reports_the_outcomes() -> None:
    modules = [module for module in MODULES if module is not delivery_module]
    for interruption in interruptions(modules, spared=SPARED):
        signal_log = SignalLog()
        with delivering(MemoryBroker(), signal_log) as delivery:
            entries = collect(delivery, 1, 2, 3)
            with interruption:
                delivery.publish(entries)
            delivery.publish(entries)
            assert delivery.flush(DEADLINE)
            delivery.notify_pending()
        assert set(signal_log.payloads("events-published")) == {1, 2, 3}, (
            interruption.struck
        )


def test_a_start_that_is_cut_short_is_made_up_for_by_the_next_event() -> None:
    for interruption in interruptions([*MODULES, periodic_worker], spared=SPARED):
        broker = MemoryBroker()
        with delivering(broker) as delivery:
            with interruption:
                collect(delivery, "perhaps")
            assert delivery.publish(collect(delivery, 1)).confirmed == 1
        assert payloads(broker.events("q")) == [1], interruption.struck


def assert_each_arrived_once_unmarked(broker: MemoryBroker, where: str) -> None:
    seen: set[str] = set()
    for event in broker.events("q"):
        assert (event.id not in seen) or event.headers[POSSIBLE_DUPLICATE], where
        seen.add(event.id)
    assert len(seen) == 3, where


class Turn:
    """Callbacks whose first call holds the broker's turn until the test says so."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()
        self.calls = 0
        self.would_wait: list[bool] = []

    def take(self, limit: int) -> list[Entry]:
        self.calls += 1
        self.would_wait.append(not is_own_thread())
        if self.calls == 1:
            self.began.set()
            assert self.may_end.wait(DEADLINE)
        return []

    def settle(self, settlements: Iterable[Settlement]) -> bool:
        return False

    def on_state_change(
        self, state: BrokerState, error: str = "", *, final: bool = False
    ) -> None:
        pass


def test_no_thread_waits_for_another_s_turn_and_no_wake_up_is_lost(
    broker: MemoryBroker,
) -> None:
    turn = Turn()
    broker.relay.target = turn
    with thread(broker.wake):
        assert turn.began.wait(DEADLINE)
        # A destructor that publishes may hold a lock that the turn is waiting for.
        broker.wake()
        assert turn.calls == 1
        turn.may_end.set()
    assert turn.calls == 2


def test_nobody_waits_for_a_confirm_in_the_turn_that_brings_it(
    broker: MemoryBroker,
) -> None:
    turn = Turn()
    turn.may_end.set()
    broker.relay.target = turn
    broker.wake()
    assert turn.would_wait == [False]
    assert not is_own_thread()


# What the settings bind

EXCHANGES = {
    "shop": {"type": "topic"},
    "news": {"type": "topic", "unrouted": "discard"},
    "later": {"type": "topic", "mandatory": False},
}
QUEUES = {
    "orders": {"bind": ["shop:orders.#", "news:orders.#", "later:orders.#"]},
    "audit": {"bind": ["shop:orders.*"]},
}


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop(EXCHANGES=EXCHANGES, QUEUES=QUEUES) as shop:
        yield shop


def test_an_event_is_in_each_queue_that_is_bound(shop: Shop) -> None:
    shop.events.enqueue_event(1, "orders.created", exchange="shop")
    shop.events.publish()
    assert (shop.sent("orders"), shop.sent("audit")) == ([1], [1])
    assert shop.sent("orders.created") == []


@pytest.mark.parametrize(
    ("exchange", "counts"),
    [
        ("shop", {"retained": 1}),
        ("news", {"unrouted": 1}),
        ("later", {"confirmed": 1}),
        ("unknown", {"confirmed": 1}),
        ("", {"confirmed": 1}),
    ],
)
def test_an_event_that_no_queue_gets_ends_as_with_rabbitmq(
    shop: Shop, exchange: str, counts: dict[str, int]
) -> None:
    shop.events.enqueue_event(1, "mail", exchange=exchange)
    result = shop.events.publish()
    assert shop.books() == counts
    assert result.complete is (counts != {"retained": 1})
    assert result.unrouted == counts.get("unrouted", 0)


def test_it_names_what_is_missing(shop: Shop) -> None:
    shop.events.enqueue_event(1, "mail", exchange="shop")
    (problem,) = shop.events.publish().problems
    assert problem.reason == (
        "nothing is bound to exchange 'shop' for routing key 'mail': NO_ROUTE; bind a"
        " queue in EVENTCOLLECTOR_QUEUES, or set 'unrouted' in EVENTCOLLECTOR_EXCHANGES"
    )


def test_what_no_queue_need_get_is_signalled_apart(shop: Shop) -> None:
    with Recorder(shop) as heard:
        event = shop.events.enqueue_event(1, "mail", exchange="news")
        shop.events.publish()

        assert heard.names() == ["event_enqueued", "events_unrouted"]
        about = heard.one("events_unrouted").about
        assert about["events"] == (event,)
        assert about["reason"].startswith("nothing is bound to exchange 'news' for")


def test_it_does_not_hold_up_what_some_queue_gets(shop: Shop) -> None:
    for key in ("mail", "orders.created", "mail"):
        shop.events.enqueue_event(key, key, exchange="news")
    shop.events.publish()
    assert shop.books() == {"confirmed": 1, "unrouted": 2}
    assert shop.events.stats().problems == ()


def test_a_queue_of_several_copies_forgets_the_oldest_of_all() -> None:
    topology = Topology(parse_exchanges(EXCHANGES, "E"), parse_queues(QUEUES, "Q"))
    broker = MemoryBroker(3, topology)
    with delivering(broker) as delivery:
        entries: list[Entry] = []
        for number in (1, 2):
            event = make_event(number, "orders.created", exchange="shop")
            delivery.collect(entries, event)
        delivery.publish(entries)
    assert payloads(broker.events("orders")) == [2]
    assert payloads(broker.events("audit")) == [1, 2]
