"""An exchange, queue or binding that the broker refuses holds up nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pika import spec
from pika.exceptions import ChannelClosedByBroker

from flask_eventcollector.brokers.rabbitmq import declarations
from flask_eventcollector.brokers.rabbitmq.declarations import Declarations, Phase, Step
from flask_eventcollector.brokers.rabbitmq.differences import (
    adapted,
    difference,
    refusal,
)
from flask_eventcollector.config.exchanges import parse_exchanges
from flask_eventcollector.config.queues import parse_queues
from flask_eventcollector.config.topology import Topology
from tests.helpers import Shop, open_shop, wait_until

from .fake_broker import FakeBroker

EXCHANGES = {"shop": {"type": "topic"}, "odd": {"type": "x-odd"}}
QUEUES = {
    "orders": {"bind": ["shop:orders.#", "odd:orders"]},
    "mail": {"bind": ["shop:mail.#"]},
}
NOT_FOUND = spec.Channel.Close(404, "NOT_FOUND - no exchange 'odd'", 40, 10)
INVALID = spec.Connection.Close(503, "COMMAND_INVALID - unknown type 'x-odd'", 40, 10)


@contextmanager
def shop_at(broker: FakeBroker, **settings: Any) -> Iterator[Shop]:
    quick = {"RETRY_DELAY": 0.02, "RETRY_MAX_DELAY": 0.05, "CONFIRM_TIMEOUT": 0}
    declared = {"EXCHANGES": EXCHANGES, "QUEUES": QUEUES}
    settings = {"BROKER_URL": broker.url, "TESTING_BROKER": True} | quick | settings
    with open_shop(**declared | settings) as shop:
        yield shop


def confirm_one(shop: Shop) -> None:
    shop.events.enqueue_event(1, "orders.created", exchange="shop")
    shop.events.publish()
    wait_until(lambda: shop.events.stats().confirmed == 1, "it is confirmed")


def names(declared: list[Any]) -> list[str]:
    """The declarations and bindings, as words."""
    return [
        f"{method.queue} from {method.exchange}"
        if method.NAME == "Queue.Bind"
        else getattr(method, "queue", "") or method.exchange
        for method in declared
    ]


def closing(name: str, close: Any) -> Callable[[Any], Any]:
    """Close a channel or the connection over what has *name*."""

    def answer(method: Any) -> Any:
        return close if names([method]) == [name] and not is_passive(method) else None

    return answer


def is_passive(method: Any) -> bool:
    return bool(getattr(method, "passive", False))


def test_exchanges_come_before_queues_and_those_before_bindings() -> None:
    with FakeBroker() as broker, shop_at(broker) as shop:
        confirm_one(shop)

        declared = names(broker.declared)

    assert sorted(declared[:2]) == ["odd", "shop"]
    assert sorted(declared[2:4]) == ["mail", "orders"]
    bound = ["mail from shop", "orders from odd", "orders from shop"]
    assert sorted(declared[4:]) == bound


def test_each_is_declared_with_its_options() -> None:
    exchanges = {"shop": {"type": "direct", "auto_delete": True, "internal": True}}
    queues = {"orders": {"type": "quorum", "bind": ["shop:a"]}}
    settings = {"EXCHANGES": exchanges, "QUEUES": queues}
    with FakeBroker() as broker, shop_at(broker, **settings) as shop:
        shop.enqueue(1)
        shop.events.publish()
        wait_until(lambda: shop.events.stats().confirmed == 1, "it is confirmed")

        exchange, queue, binding = broker.declared

    assert (exchange.type, exchange.durable) == ("direct", True)
    assert (exchange.auto_delete, exchange.internal) == (True, True)
    assert (queue.durable, queue.auto_delete, queue.exclusive) == (True, False, False)
    assert queue.arguments == {"x-queue-type": "quorum"}
    assert (binding.queue, binding.exchange, binding.routing_key) == (
        "orders",
        "shop",
        "a",
    )


def test_what_closes_its_channel_leaves_the_rest_to_be_declared() -> None:
    with FakeBroker() as broker, shop_at(broker) as shop:
        broker.on_declare = closing("orders from odd", NOT_FOUND)
        confirm_one(shop)

        problem = shop.events.stats().broker_error
        assert broker.connections == 1

    assert problem == (
        "binding 'odd:orders' of queue 'orders' was refused: NOT_FOUND - no exchange"
        " 'odd': it must be declared first; an exchange is, once it has a 'type' in"
        " EVENTCOLLECTOR_EXCHANGES"
    )
    assert len(broker.declared) == 6


def test_however_many_are_refused_the_rest_is_declared() -> None:
    def refuse_queues(method: Any) -> Any:
        is_queue = method.NAME == "Queue.Declare"
        close = spec.Channel.Close(406, "PRECONDITION_FAILED", 50, 10)
        return close if is_queue else None

    queues = {f"q{number}": {"bind": ["shop:#"]} for number in range(15)}
    with FakeBroker() as broker, shop_at(broker, QUEUES=queues) as shop:
        broker.on_declare = refuse_queues
        confirm_one(shop)

        problems = shop.events.stats().broker_error.split("; ")

    assert problems[-1] == "and 5 more problems"
    assert len(problems) == 10 + 1
    bound = {f"q{number} from shop" for number in range(15)}
    assert set(names(broker.declared)[2:]) == bound


def test_what_may_be_lost_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    queues = {"orders": {"x-max-length": 5, "durable": False}}
    with FakeBroker() as broker, shop_at(broker, QUEUES=queues) as shop:
        for _ in range(2):
            shop.enqueue(1)
            shop.events.publish()
        wait_until(lambda: shop.events.stats().confirmed == 2, "both are confirmed")

    lines = [r.getMessage() for r in caplog.records if "silently" in r.getMessage()]
    assert len(lines) == 2
    assert lines[0].startswith(
        "Messages may be lost silently: queue 'orders' is not durable"
    )


def test_of_many_that_may_be_lost_twenty_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queues = {f"q{number}": {"durable": False} for number in range(25)}
    with FakeBroker() as broker, shop_at(broker, QUEUES=queues) as shop:
        shop.enqueue(1)

    lines = [r.getMessage() for r in caplog.records if "silently" in r.getMessage()]
    assert len(lines) == 20 + 1
    assert lines[-1] == (
        "Messages may be lost silently: 5 more, which 'flask events topology check'"
        " lists"
    )


@pytest.mark.parametrize("name", ["odd", "mail", "orders from odd"])
def test_what_ends_the_connection_is_found_and_left_out(name: str) -> None:
    with FakeBroker() as broker, shop_at(broker) as shop:
        broker.on_declare = closing(name, INVALID)
        confirm_one(shop)

        assert broker.connections <= 3
        problem = shop.events.stats().broker_error
        declared = names(broker.declared)

    assert "is left out, since the connection ended over it" in problem
    assert "COMMAND_INVALID - unknown type 'x-odd'" in problem
    assert name.partition(" ")[0] in problem
    assert {"shop", "orders", "orders from shop"} <= set(declared)
    assert name not in declared


def make(topology: Topology, now: list[float]) -> Declarations:
    return Declarations(topology, clock=lambda: now[0])


@pytest.fixture
def topology() -> Topology:
    return Topology(parse_exchanges(EXCHANGES, "E"), parse_queues(QUEUES, "Q"))


def words(rounds: list[list[Step]]) -> list[list[str]]:
    return [[str(step) for step in steps] for steps in rounds]


def test_suspects_are_taken_one_by_one_in_their_phase(topology: Topology) -> None:
    known = make(topology, [0])
    exchanges, queues, bindings = known.rounds()

    known.blame(exchanges, "why", is_sure=True)
    known.blame(queues[:1], "why", is_sure=False)

    assert words(known.rounds()) == words(
        [exchanges[:1], exchanges[1:], queues[1:], queues[:1], bindings]
    )
    assert known.left_out() == {}


def test_what_is_at_fault_is_tried_again_after_a_minute(topology: Topology) -> None:
    now = [0.0]
    known = make(topology, now)
    odd = known.rounds()[Phase.EXCHANGES][1]

    known.blame([odd], "why", is_sure=True)

    assert list(known.left_out()) == ["exchange 'odd'"]
    assert all(odd not in steps for steps in known.rounds())
    now[0] = declarations._LEFT_OUT_FOR
    assert known.left_out() == {}
    assert [odd] in known.rounds()


def test_nothing_is_left_to_do_without_settings() -> None:
    known = make(Topology(), [0])
    known.blame([], "why", is_sure=True)
    assert known.rounds() == []


# What the broker says about a difference

IN_VHOST = "PRECONDITION_FAILED - inequivalent arg '{}' for queue 'q' in vhost '/': "


@pytest.mark.parametrize(
    ("argument", "said", "words", "present"),
    [
        ("x-a", "received none but current is the value '5' of type 'long'", "5", 5),
        ("x-a", "received '6' but current is '5'", "5", 5),
        ("x-a", "received 'a' but current is 'b'", "b", "b"),
        ("x-a", "received 'false' but current is 'true'", "true", True),
        (
            "x-a",
            "received none but current is the value 'x' of type 'longstr'",
            "x",
            "x",
        ),
        (
            "x-a",
            "received none but current is the value 'true' of type 'bool'",
            "t",
            True,
        ),
        (
            "x-a",
            "received the value '7' of type 'signedint' but current is none",
            "",
            None,
        ),
        ("durable", "received 'true' but current is 'false'", "false", False),
    ],
)
def test_a_difference_is_read_with_the_type_of_its_value(
    argument: str, said: str, words: str, present: Any
) -> None:
    text = IN_VHOST.format(argument) + said
    found = difference(ChannelClosedByBroker(406, text))
    assert found is not None
    assert found.argument == argument
    assert (found.present or "").startswith(words)
    options = parse_queues({"q": {"x-a": 7}}, "Q")
    (step,) = declarations.steps(Topology(queues=options))

    changed = adapted(step, found)

    assert changed is not None
    values = changed.values if argument == "durable" else changed.values["arguments"]
    assert values.get(argument) == present
    assert type(values.get(argument)) is type(present)


def test_a_value_of_a_rare_type_is_shown_and_ends_the_comparison() -> None:
    said = "received none but current is the value '1.5' of type 'double'"
    found = difference(ChannelClosedByBroker(406, IN_VHOST.format("x-a") + said))
    assert found is not None
    assert str(found) == "'x-a' is 1.5, but the settings do not set it"
    (step,) = declarations.steps(Topology(queues=parse_queues({"q": {}}, "Q")))
    assert adapted(step, found) is None


def test_a_text_that_was_cut_off_is_shown_as_it_is_with_the_cure() -> None:
    text = f"PRECONDITION_FAILED - inequivalent arg 'x-a' for queue '{'q' * 180}..."
    (step,) = declarations.steps(Topology(queues=parse_queues({"q": {}}, "Q")))
    error = ChannelClosedByBroker(406, text)
    assert difference(error) is None
    assert refusal(step, error) == (
        f"queue 'q' was refused: {text}: correct EVENTCOLLECTOR_QUEUES, or delete the"
        " queue once it is empty, so that it is declared anew. Until then, it is used"
        " as it is"
    )


@pytest.mark.parametrize(
    "current", ["'dea...", "the value 'dea...", "the value 'dea' of type 'lo..."]
)
def test_a_value_that_was_cut_off_ends_the_comparison(current: str) -> None:
    said = f"received none but current is {current}"
    found = difference(ChannelClosedByBroker(406, IN_VHOST.format("x-a") + said))
    assert found is not None
    assert (found.present or "").startswith("dea")
    (step,) = declarations.steps(Topology(queues=parse_queues({"q": {}}, "Q")))
    assert adapted(step, found) is None
