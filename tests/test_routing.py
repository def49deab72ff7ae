"""Which queues of the settings get a message, as RabbitMQ routes it."""

from __future__ import annotations

from typing import Any

import pytest

from flask_eventcollector.config.exchanges import parse_exchanges
from flask_eventcollector.config.queues import parse_queues
from flask_eventcollector.config.routing import Router
from flask_eventcollector.config.topology import Topology


def route(
    exchanges: Any,
    queues: Any,
    exchange: str,
    key: str,
    headers: dict[str, Any] | None = None,
) -> tuple[str, ...] | None:
    topology = Topology(parse_exchanges(exchanges, "E"), parse_queues(queues, "Q"))
    return Router(topology).queues(exchange, key, headers or {})


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("orders.created", "orders.created", True),
        ("orders.created", "orders", False),
        ("orders.*", "orders.created", True),
        ("orders.*", "orders", False),
        ("orders.*", "orders.created.eu", False),
        ("orders.#", "orders", True),
        ("orders.#", "orders.created.eu", True),
        ("#", "anything.at.all", True),
        ("#.eu", "orders.created.eu", True),
        ("#.eu", "eu", True),
        ("*.#.eu", "eu", False),
        ("a.*.c.#", "a..c", True),
        ("*", "", False),
        ("#", "", True),
    ],
)
def test_a_topic_exchange_compares_words(pattern: str, key: str, matches: bool) -> None:
    queues = {"q": {"bind": [f"amq.topic:{pattern}"]}}
    assert route({}, queues, "amq.topic", key) == (("q",) if matches else ())


def test_many_hashes_take_no_longer() -> None:
    queues = {"q": {"bind": ["amq.topic:" + "#.a." * 20 + "b"]}}
    assert route({}, queues, "amq.topic", ".".join("a" * 100)) == ()
    assert route({}, queues, "amq.topic", ".".join("a" * 100 + "b")) == ("q",)


def test_a_direct_exchange_compares_keys_and_a_fanout_exchange_nothing() -> None:
    queues = {"q": {"bind": ["amq.direct:a", "amq.fanout"]}}
    assert route({}, queues, "amq.direct", "a") == ("q",)
    assert route({}, queues, "amq.direct", "b") == ()
    assert route({}, queues, "amq.fanout", "b") == ("q",)


@pytest.mark.parametrize(
    ("arguments", "headers", "matches"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"x-match": "any", "a": 1, "b": 2}, {"a": 1}, True),
        ({"x-match": "any", "a": 1}, {"a": 2}, False),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": "x"}, {"a": b"x"}, True),
        ({"a": b"\xff"}, {"a": b"\xff"}, True),
        ({"a": None}, {"a": "anything"}, True),
        ({"x-tenant": 1}, {}, True),
        ({"x-match": "all-with-x", "x-tenant": 1}, {}, False),
        ({"x-match": "any-with-x", "x-tenant": 1}, {"x-tenant": 1}, True),
    ],
)
def test_a_headers_exchange_compares_headers(
    arguments: dict[str, Any], headers: dict[str, Any], matches: bool
) -> None:
    queues = {"q": {"bind": [{"exchange": "amq.match", "arguments": arguments}]}}
    found = route({}, queues, "amq.match", "ignored", headers)
    assert found == (("q",) if matches else ())


def test_a_queue_with_several_matching_bindings_gets_one_copy() -> None:
    queues = {
        "all": {"bind": ["shop:#", "shop:orders.*"]},
        "orders": {"bind": ["shop:orders.#"]},
    }
    exchanges = {"shop": {"type": "topic"}}
    assert route(exchanges, queues, "shop", "orders.created") == ("all", "orders")


def test_what_reaches_no_queue_goes_to_the_alternate_exchange() -> None:
    exchanges = {
        "shop": {"type": "topic", "alternate": "rest"},
        "rest": {"type": "fanout", "alternate": "shop"},
    }
    queues = {
        "orders": {"bind": ["shop:orders.#"]},
        "rest": {"bind": ["rest"]},
    }
    assert route(exchanges, queues, "shop", "orders.created") == ("orders",)
    assert route(exchanges, queues, "shop", "users.created") == ("rest",)


def test_alternates_in_a_circle_come_to_an_end() -> None:
    exchanges = {
        "a": {"type": "topic", "alternate": "b"},
        "b": {"type": "topic", "alternate": "a"},
    }
    queues = {"q": {"bind": ["a:x", "b:x"]}}
    assert route(exchanges, queues, "a", "y") == ()


@pytest.mark.parametrize("exchange", ["crm", "later", "amq.topic"])
def test_of_an_exchange_without_queues_or_type_nothing_is_known(exchange: str) -> None:
    exchanges = {"crm": {}, "later": {"type": "x-delayed-message"}}
    queues = {"q": {"bind": ["crm:x", "later:x"]}}
    assert route(exchanges, queues, exchange, "x") is None


def test_the_default_exchange_has_the_queues_of_the_settings() -> None:
    assert route({}, {"q": {}}, "", "q") == ("q",)
    assert route({}, {"q": {}}, "", "others") is None
