"""A broker's treatment of one event, queue or channel affects no other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pika import spec

from flask_eventcollector.brokers.rabbitmq import broker as rabbitmq_broker
from flask_eventcollector.brokers.rabbitmq import channels, leaving, unconfirmed
from flask_eventcollector.events import BrokerState
from tests.helpers import DEADLINE, Shop, open_shop, wait_until

from .fake_broker import FakeBroker, Message

MARKER = b'"culprit"'


@contextmanager
def shop_at(broker: FakeBroker, **settings: Any) -> Iterator[Shop]:
    """A shop that publishes to *broker*, with short timeouts."""
    defaults = {"RETRY_DELAY": 0.02, "RETRY_MAX_DELAY": 0.1, "CONFIRM_TIMEOUT": 0}
    settings = {"BROKER_URL": broker.url, "TESTING_BROKER": True} | defaults | settings
    with open_shop(**settings) as shop:
        yield shop


def publish(shop: Shop, *payloads: Any, queue: str = "q") -> None:
    shop.enqueue(*payloads, queue=queue)
    shop.events.publish()


def on_marker(answer: str) -> Any:
    def choose(message: Message) -> str:
        return answer if message.body == MARKER else "ack"

    return choose


def confirmed(shop: Shop, number: int) -> None:
    wait_until(lambda: shop.events.stats().confirmed == number, f"{number} confirmed")


# An event over which the broker closes the connection.


@pytest.mark.parametrize("neighbours", [0, 100])
def test_an_event_that_ends_the_connection_is_dead_and_alone(neighbours: int) -> None:
    before, after = range(neighbours // 2), range(neighbours // 2, neighbours)
    with FakeBroker(on_marker("close connection")) as broker, shop_at(broker) as shop:
        publish(shop, *before, "culprit", *after)
        confirmed(shop, neighbours)
        wait_until(lambda: shop.events.stats().dead == 1, "it is dead")
        (dead,) = shop.events.dead()
        assert dead.event.payload == "culprit"
        assert "FRAME_ERROR - a marker" in dead.reason
        assert broker.copies(MARKER) <= 2
        for number in range(neighbours):
            assert broker.copies(json.dumps(number).encode()) <= 2
        assert shop.events.stats().balanced


def test_two_such_events_in_one_batch_are_both_dead() -> None:
    with FakeBroker(on_marker("close connection")) as broker, shop_at(broker) as shop:
        publish(shop, *range(20), "culprit", *range(20, 40), "culprit")
        confirmed(shop, 40)
        wait_until(lambda: shop.events.stats().dead == 2, "both are dead")
        assert max(map(broker.copies, map(str.encode, map(str, range(40))))) <= 3


def test_such_an_event_is_found_again_after_a_restart(tmp_path: Any) -> None:
    spool: dict[str, Any] = {"BACKLOG": "spool", "SPOOL_DIR": str(tmp_path / "spool")}
    with FakeBroker(lambda _: "nothing") as broker:
        with shop_at(broker, **spool) as shop:
            publish(shop, *range(10), "culprit", *range(10, 20))
            wait_until(lambda: shop.events.stats().spooled == 21, "all is on disk")
        broker.messages.clear()
        broker.answer = on_marker("close connection")
        with shop_at(broker, **spool) as heir:
            heir.events.enqueue_event("new", "other")
            heir.events.publish()
            confirmed(heir, 21)
            wait_until(lambda: heir.events.stats().dead == 1, "it is dead")
            assert broker.copies(MARKER) <= 2


def test_an_event_that_closes_its_channel_is_refused_and_then_dead() -> None:
    with (
        FakeBroker(on_marker("close channel")) as broker,
        shop_at(broker, DEAD_AFTER=0.3) as shop,
    ):
        publish(shop, *range(10), "culprit", *range(10, 20))
        confirmed(shop, 20)
        wait_until(lambda: shop.events.stats().dead == 1, "it is dead")
        (dead,) = shop.events.dead()
        assert dead.reason == "ACCESS_REFUSED"
        assert broker.connections == 1


def test_an_exchange_whose_check_ends_the_connection_is_refused_and_then_dead() -> None:
    """RabbitMQ 4.0 fails over the names of some exchanges that are missing."""

    def fail_over_odd_names(method: Any) -> Any:
        is_odd = method.NAME == "Exchange.Declare" and method.exchange == "odd"
        return spec.Connection.Close(541, "INTERNAL_ERROR", 0, 0) if is_odd else None

    with FakeBroker() as broker, shop_at(broker, DEAD_AFTER=0) as shop:
        broker.on_declare = fail_over_odd_names
        publish(shop, *range(10))
        for number in range(3):
            shop.events.enqueue_event(number, "q", exchange="odd")
        publish(shop, *range(10, 20))
        confirmed(shop, 20)
        wait_until(lambda: shop.events.stats().dead == 3, "they are dead")

        (reason,) = {dead.reason for dead in shop.events.dead()}
        assert reason == (
            "closed by the broker: INTERNAL_ERROR, as a response to exchange.declare"
            " (passive) for 'odd'"
        )
        assert broker.connections <= 8
        assert shop.events.stats().balanced


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("caf\udce9", "caf\ufffd"),
        ("a\0b", "a\ufffdb"),
        ("x" * 300, "x" * 255),
        ("ü" * 200, "ü" * 127),
    ],
    ids=["surrogate", "zero", "long", "long in UTF-8"],
)
def test_the_name_of_an_app_may_be_anything(name: str, sent: str) -> None:
    with FakeBroker() as broker, shop_at(broker) as shop:
        shop.name = name
        publish(shop, 1)
        confirmed(shop, 1)

    assert [message.properties.app_id for message in broker.messages] == [sent]


def test_headers_that_do_not_fit_into_a_frame_are_dead_at_once() -> None:
    with FakeBroker() as broker, shop_at(broker) as shop:
        headers = {"long": "x" * 60_000}
        shop.events.enqueue_event(1, "q", headers=headers)
        shop.events.enqueue_event(2, "q")
        shop.events.publish()
        confirmed(shop, 2)


# Queues.


def test_a_queue_that_never_confirms_holds_up_no_other() -> None:
    def silent(message: Message) -> str:
        return "nothing" if message.queue == "silent" else "ack"

    with FakeBroker(silent) as broker, shop_at(broker, MAX_IN_FLIGHT=50) as shop:
        publish(shop, *range(200), queue="silent")
        wait_until(lambda: len(broker.messages) >= 50, "the window is full")
        for number in range(20):
            publish(shop, number, queue="healthy")
            confirmed(shop, number + 1)
        sent = [m for m in broker.messages if m.queue == "silent"]
        assert len(sent) <= 50
        assert broker.connections == 1


def test_a_silent_queue_does_not_end_the_connection() -> None:
    sent: list[float] = []

    def silent(message: Message) -> str:
        sent.append(time.monotonic())
        return "nothing"

    with FakeBroker(silent) as broker, shop_at(broker, HEARTBEAT=1) as shop:
        publish(shop, 1, queue="silent")
        # On a busy machine, the connection may be taken for frozen, and replaced.
        wait_until(
            lambda: sent and time.monotonic() > sent[-1] + 3.5,
            "a connection lasts longer than the patience with a silent broker",
        )
        assert shop.events.stats().in_flight == 1


def test_a_refusing_queue_gets_a_few_probes_at_a_time() -> None:
    refused: list[float] = []

    def full(message: Message) -> str:
        if message.queue == "full":
            refused.append(time.monotonic())
            return "nack"
        return "ack"

    with FakeBroker(full) as broker, shop_at(broker, MAX_IN_FLIGHT=100) as shop:
        publish(shop, *range(1000), queue="full")
        time.sleep(1)
        first = len([m for m in broker.messages[:100] if m.queue == "full"])
        # The first window, then at most four at each of about twenty retries.
        assert len(refused) <= first + 4 * 120
        publish(shop, "x", queue="healthy")
        confirmed(shop, 1)


def test_nacks_that_stick_to_a_channel_are_left_behind_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unconfirmed, "WORN_AFTER", 0.3)

    def sticky(message: Message) -> str:
        return "nack" if message.opened == 1 else "ack"

    with FakeBroker(sticky) as broker, shop_at(broker) as shop:
        publish(shop, *range(5))
        confirmed(shop, 5)
        assert broker.connections == 1


def test_refused_and_dead_events_at_the_limit_cost_healthy_queues_nothing() -> None:
    def retire(message: Message) -> str:
        return "return" if message.queue == "retired" else "ack"

    limits = {"MAX_EVENTS": 100, "MAX_DEAD_EVENTS": 20, "DEAD_AFTER": 0.5}
    # Each publish() waits, unless the target was refused already.
    limits |= {"CONFIRM_TIMEOUT": DEADLINE}
    with FakeBroker(retire) as broker, shop_at(broker, **limits) as shop:
        for number in range(50):
            publish(shop, *["old"] * 10, queue="retired")
            publish(shop, number, queue="healthy")
        wait_until(lambda: shop.events.stats().dead == 20, "many are dead")
        publish(shop, *range(50, 60), queue="healthy")
        confirmed(shop, 60)
        assert shop.events.stats().dropped > 0
        assert shop.events.stats().balanced


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels and nodes are left soon."""
    monkeypatch.setattr(unconfirmed, "WORN_AFTER", 0.2)
    monkeypatch.setattr(rabbitmq_broker, "_LEAST_STAY", 0.1)


def refuse_some(message: Message) -> str:
    return "nack" if message.queue == "refused" else "ack"


@pytest.mark.usefixtures("impatient")
def test_a_node_that_nacks_on_every_channel_is_left_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As long as the broker's confirms may take on a busy machine.
    monkeypatch.setattr(leaving, "_LEAVE_TIMEOUT", DEADLINE)
    with (
        FakeBroker(refuse_some) as first,
        FakeBroker() as second,
        shop_at(first, BROKER_URL=[first.url, second.url]) as shop,
    ):
        publish(shop, *range(5), queue="refused")
        for number in range(100, 150):
            publish(shop, number, queue="healthy")
        confirmed(shop, 55)
        assert {m.queue for m in second.messages} >= {"refused"}
        everything = [*first.messages, *second.messages]
        taken = [m.body for m in everything if refuse_some(m) == "ack"]
        assert len(taken) == len(set(taken)), "nothing was sent twice"
        assert "nacked on a new channel, too: trying another node" not in (
            shop.events.stats().broker_error
        )


@pytest.mark.usefixtures("impatient")
def test_a_silent_queue_keeps_nobody_on_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "_LEAVE_TIMEOUT", 0.2)

    def answer(message: Message) -> str:
        return "nothing" if message.queue == "silent" else refuse_some(message)

    with (
        FakeBroker(answer) as first,
        FakeBroker() as second,
        shop_at(first, BROKER_URL=[first.url, second.url]) as shop,
    ):
        publish(shop, 1, queue="silent")
        publish(shop, 2, queue="refused")
        confirmed(shop, 2)
        assert [m.is_marked for m in second.messages if m.queue == "silent"] == [True]


@pytest.mark.usefixtures("impatient")
def test_the_only_node_is_not_left() -> None:
    with FakeBroker(refuse_some) as broker, shop_at(broker) as shop:
        publish(shop, 1, queue="refused")
        wait_until(
            lambda: max((m.opened for m in broker.messages), default=0) > 3,
            "more channels are tried",
        )
        assert broker.connections == 1


@pytest.mark.usefixtures("impatient")
def test_nodes_that_all_nack_are_left_less_and_less_often() -> None:
    with (
        FakeBroker(refuse_some) as first,
        FakeBroker(refuse_some) as second,
        shop_at(first, BROKER_URL=[first.url, second.url]) as shop,
    ):
        publish(shop, 1, queue="refused")
        wait_until(lambda: first.connections >= 2, "it is back")
        broker = shop.events.broker
        assert isinstance(broker, rabbitmq_broker.RabbitMQBroker)
        assert broker._stay > rabbitmq_broker._LEAST_STAY
        assert shop.events.stats().balanced


# Channels, and steps without a response.


def test_more_exchanges_than_channels_are_served_in_turn() -> None:
    with FakeBroker(channel_max=4) as broker, shop_at(broker) as shop:
        for number in range(13):
            shop.events.enqueue_event(number, "q", exchange=f"exchange-{number}")
        shop.events.publish()
        confirmed(shop, 13)
        assert broker.connections == 1


@pytest.mark.parametrize("step", ["Channel.Open", "Confirm.Select", "Exchange.Declare"])
def test_a_channel_that_does_not_open_gives_its_events_back(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "STEP_TIMEOUT", 0.2)
    with FakeBroker() as broker, shop_at(broker) as shop:
        broker.unanswered = {step}
        shop.events.enqueue_event(1, "q", exchange="deaf")
        shop.events.publish()
        wait_until(
            lambda: "no response to" in shop.events.stats().broker_error,
            "it is reported",
        )
        broker.unanswered = set()
        confirmed(shop, 1)


def test_a_declare_without_a_response_delays_no_one_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "flask_eventcollector.brokers.rabbitmq.session.STEP_TIMEOUT", 0.3
    )
    with FakeBroker() as broker:
        broker.unanswered = {"Queue.Declare"}
        with shop_at(broker, QUEUES={"deaf": {}}) as shop:
            publish(shop, 1)
            confirmed(shop, 1)
            stats = shop.events.stats()
            assert stats.broker is BrokerState.READY
            assert "no response to queue.declare for 'deaf'" in stats.broker_error


def test_queues_that_hang_keep_no_other_from_being_declared_and_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than there are channels for declarations."""
    monkeypatch.setattr(
        "flask_eventcollector.brokers.rabbitmq.session.STEP_TIMEOUT", 0.3
    )
    queues = {**{f"deaf{n}": {} for n in range(3)}, "shop": {"bind": ["amq.topic:#"]}}
    with FakeBroker() as broker:
        broker.is_late_for = lambda m: str(getattr(m, "queue", "")).startswith("deaf")
        with shop_at(broker, QUEUES=queues) as shop:
            publish(shop, 1)
            wait_until(lambda: len(broker.declared) == 2, "it is bound")
            wait_until(
                lambda: shop.events.stats().broker_error.count("no response") == 3,
                "those are reported",
            )
            assert [method.queue for method in broker.declared] == ["shop", "shop"]
            confirmed(shop, 1)


@pytest.mark.parametrize("most", [{"channel_max": 4}, {}], ids=["few", "many"])
def test_queues_that_hang_take_no_more_channels_than_there_are(
    most: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "flask_eventcollector.brokers.rabbitmq.session.STEP_TIMEOUT", 0.0
    )
    monkeypatch.setattr("flask_eventcollector.brokers.rabbitmq.session._TICK", 0.01)
    queues: dict[str, Any] = {f"deaf{number}": {} for number in range(40)}
    with FakeBroker(**most) as broker:
        broker.is_late_for = lambda method: method.NAME == "Queue.Declare"
        with shop_at(broker, QUEUES=queues) as shop:
            publish(shop, 1)
            confirmed(shop, 1)
            broker.is_late_for = lambda method: False

            def no_problem_is_left() -> bool:
                broker.answer_late()
                return not shop.events.stats().broker_error

            wait_until(no_problem_is_left, "all is declared")
            assert broker.connections == 1


def test_a_late_response_ends_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flask_eventcollector.brokers.rabbitmq.session.STEP_TIMEOUT", 0.3
    )
    with FakeBroker() as broker:
        broker.is_late_for = lambda method: method.NAME == "Queue.Declare"
        with shop_at(broker, QUEUES={"late": {}}) as shop:
            publish(shop, 1)
            confirmed(shop, 1)
            assert "no response" in shop.events.stats().broker_error
            broker.answer_late()
            wait_until(lambda: not shop.events.stats().broker_error, "it is gone")
            assert broker.connections == 1


def test_who_waits_for_a_reconnect_waits_for_no_backoff() -> None:
    answers = iter(["ack", "drop connection", "ack"])
    slow = {"RECONNECT_TIMEOUT": DEADLINE, "RETRY_DELAY": 60, "RETRY_MAX_DELAY": 60}
    with FakeBroker(lambda _: next(answers)) as broker, shop_at(broker, **slow) as shop:
        publish(shop, "connect")
        publish(shop, "a")

        assert shop.books() == {"confirmed": 2}


def test_a_broker_that_stops_confirming_is_given_up() -> None:
    with (
        FakeBroker(lambda _: "nothing") as broker,
        shop_at(broker, HEARTBEAT=1) as shop,
    ):
        publish(shop, 1)
        wait_until(lambda: bool(broker.messages), "it is sent")
        broker.unanswered = {"Channel.Open"}
        wait_until(lambda: broker.connections > 1, "another connection")
    assert DEADLINE
