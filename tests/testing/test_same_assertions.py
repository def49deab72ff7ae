"""The same assertions with every broker.

With pytest-flask: its request context stays pushed for the whole test, and its client
keeps the context of the last request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple
from unittest.mock import ANY
from uuid import uuid4

import pytest
from flask import abort, request
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue

from flask_eventcollector.testing import Captured, event
from tests.helpers import DEADLINE, Shop

#: The in-memory broker, the same with the spool, and RabbitMQ.
BROKERS = ["memory", "spool", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)]

#: Unique queue names, on a broker shared with other tests.
ORDERS = f"orders.created.{uuid4().hex}"
MAIL = f"mail.send.{uuid4().hex}"

Post = Callable[..., None]


class Sent(NamedTuple):
    """A message as a consumer receives it."""

    payload: Any
    headers: Mapping[str, Any]


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def app(broker: str, request: pytest.FixtureRequest) -> Iterator[Shop]:
    """A shop that publishes to *broker*."""
    settings: dict[str, Any] = {}
    if broker == "spool":
        folder = request.getfixturevalue("tmp_path") / "spool"
        settings = {"BROKER_URL": "memory://", "TESTING_BROKER": True}
        settings |= {"BACKLOG": "spool", "SPOOL_DIR": str(folder)}
    if broker == "rabbitmq":
        node = request.getfixturevalue("rabbitmq")
        settings = {"BROKER_URL": node.url, "TESTING_BROKER": True}
        # Even on a slow machine, a request ends only after the broker's confirm.
        settings["CONFIRM_TIMEOUT"] = DEADLINE
        node.declare(ORDERS)
        node.declare(MAIL)
    shop = make_shop(**settings)
    yield shop
    shop.events.close(DEADLINE)
    if broker == "rabbitmq":
        node.delete(ORDERS)
        node.delete(MAIL)


@pytest.fixture
def post(client: FlaskClient, captured_events: Captured) -> Post:
    """Place an order; return when its events have been delivered."""

    def posted(path: str = "/orders", **order: Any) -> None:
        client.post(path, json={"sku": "A1", **order})
        captured_events.flush(DEADLINE)

    return posted


@pytest.fixture
def sent(
    app: Shop, broker: str, request: pytest.FixtureRequest
) -> Callable[[str], list[Sent]]:
    """Read the messages on the broker."""

    def read(queue: str) -> list[Sent]:
        if broker == "rabbitmq":
            messages = request.getfixturevalue("rabbitmq").get_all(queue)
            return [Sent(m.json(), m.properties.headers or {}) for m in messages]
        return [Sent(e.payload, e.headers) for e in app.broker.events(queue)]

    return read


def make_shop(**settings: Any) -> Shop:
    shop = Shop(**settings)

    @shop.post("/orders")
    def place() -> ResponseReturnValue:
        order = {"id": 7, **request.get_json()}
        shop.events.enqueue_event(order, ORDERS, headers={"tenant": "north"})
        shop.events.enqueue_event({"to": "ann@example.org", "order": order}, MAIL)
        return "placed", 201

    @shop.post("/refused")
    def refuse() -> ResponseReturnValue:
        shop.events.enqueue_event(request.get_json(), ORDERS)
        abort(409)

    @shop.post("/crash")
    def crash() -> ResponseReturnValue:
        shop.events.enqueue_event(request.get_json(), ORDERS)
        raise ValueError("the payment failed")

    return shop


def test_an_event_is_published(
    post: Post, captured_events: Captured, sent: Callable[[str], list[Sent]]
) -> None:
    post()

    captured_events.assert_published(ORDERS, {"sku": "A1"}, times=1)
    assert sent(ORDERS) == [Sent({"id": 7, "sku": "A1"}, {"tenant": "north"})]


def test_a_glob_finds_it(post: Post, captured_events: Captured) -> None:
    post()

    captured_events.assert_published("orders.*", times=1)
    captured_events.assert_published("*", times=2)


def test_a_part_of_the_payload_finds_it(post: Post, captured_events: Captured) -> None:
    post()

    captured_events.assert_published(MAIL, {"order": {"sku": "A1"}})


def test_matchers_find_it(post: Post, captured_events: Captured) -> None:
    post()

    captured_events.assert_published(
        MAIL,
        {"to": re.compile("@"), "order": {"id": lambda id: id > 6, "sku": str}},
    )


def test_the_whole_payload_finds_it(post: Post, captured_events: Captured) -> None:
    post()

    captured_events.assert_published(ORDERS, {"id": 7, "sku": "A1"}, exact=True)
    with pytest.raises(AssertionError):
        captured_events.assert_published(ORDERS, {"id": 7}, exact=True)


def test_a_header_finds_it(post: Post, captured_events: Captured) -> None:
    post()

    captured_events.assert_published("*", headers={"tenant": "north"}, times=1)


def test_the_matched_event_is_returned(
    post: Post, captured_events: Captured, sent: Callable[[str], list[Sent]]
) -> None:
    post()

    assert captured_events.assert_published(ORDERS).payload == sent(ORDERS)[0].payload


def test_all_matched_events_are_returned(post: Post, captured_events: Captured) -> None:
    for sku in ("A1", "B2", "C3"):
        post(sku=sku)

    orders = captured_events.assert_published(ORDERS, times=3)

    assert [order.payload["sku"] for order in orders] == ["A1", "B2", "C3"]


def test_another_number_of_events_fails(post: Post, captured_events: Captured) -> None:
    post()

    with pytest.raises(AssertionError, match=r"^expected 2 events .* but found 1:"):
        captured_events.assert_published(ORDERS, times=2)


def test_another_payload_fails(post: Post, captured_events: Captured) -> None:
    post()

    with pytest.raises(AssertionError, match=r"payload\['sku'\]: expected 'B2', found"):
        captured_events.assert_published(ORDERS, {"sku": "B2"})


def test_what_was_not_published_is_known_at_once(
    post: Post, captured_events: Captured
) -> None:
    post()

    captured_events.assert_not_published("payments.*")
    captured_events.assert_not_published(ORDERS, {"sku": "B2"})


def test_a_refused_order_publishes_nothing(
    post: Post, captured_events: Captured, sent: Callable[[str], list[Sent]]
) -> None:
    post("/refused")

    captured_events.assert_nothing_published()
    captured_events.assert_discarded(ORDERS, reason="the response was 409", times=1)
    assert sent(ORDERS) == []


def test_a_crash_publishes_nothing(post: Post, captured_events: Captured) -> None:
    post("/crash")

    captured_events.assert_discarded(ORDERS, reason="ValueError was raised")
    with pytest.raises(AssertionError, match="discarded because ValueError was raised"):
        captured_events.assert_published(ORDERS)


def test_events_are_in_sequence(post: Post, captured_events: Captured) -> None:
    post(sku="A1")
    post(sku="B2")

    first, second = event(ORDERS, {"sku": "A1"}), event(ORDERS, {"sku": "B2"})
    captured_events.assert_sequence([first, second])
    captured_events.assert_sequence([first, MAIL, second, MAIL], strict=True)
    with pytest.raises(AssertionError, match="was published, but out of order"):
        captured_events.assert_sequence([second, first])


def test_nothing_else_was_published(post: Post, captured_events: Captured) -> None:
    post()

    captured_events.assert_published(ORDERS)
    with pytest.raises(AssertionError, match="but 1 was not asserted on"):
        captured_events.assert_no_others()
    captured_events.assert_published(MAIL)
    captured_events.assert_no_others()


def test_a_list_is_equal_to_what_is_expected(
    post: Post, captured_events: Captured
) -> None:
    post()

    assert captured_events.published == [
        event(ORDERS, {"id": ANY}),
        event(MAIL, {"to": re.compile("@")}),
    ]


@pytest.mark.parametrize("outcome", ["nacked", "returned"])
def test_a_refused_event_is_retained_until_the_flush(
    app: Shop,
    client: FlaskClient,
    captured_events: Captured,
    sent: Callable[[str], list[Sent]],
    outcome: Literal["nacked", "returned"],
) -> None:
    captured_events.fail_next(outcome=outcome, queue="orders.*")
    client.post("/orders", json={"sku": "A1"})

    kept = captured_events.assert_retained(ORDERS, {"sku": "A1"})
    assert kept.outcome == outcome
    assert captured_events.flush(DEADLINE)

    captured_events.assert_published(ORDERS, times=1)
    assert len(sent(ORDERS)) == 1


def test_an_unknown_event_is_sent_again_with_the_mark(
    client: FlaskClient, captured_events: Captured, sent: Callable[[str], list[Sent]]
) -> None:
    captured_events.fail_next(outcome="unknown", queue="orders.*")
    client.post("/orders", json={"sku": "A1"})

    captured_events.assert_retained(ORDERS)
    assert captured_events.flush(DEADLINE)

    assert captured_events.assert_published(ORDERS).attempts == 2
    (order,) = sent(ORDERS)
    assert order.headers == {"tenant": "north", "x-possible-duplicate": True}


def test_while_the_broker_is_down_events_are_retained(
    app: Shop,
    client: FlaskClient,
    captured_events: Captured,
    sent: Callable[[str], list[Sent]],
) -> None:
    captured_events.broker_down()
    assert client.post("/orders", json={"sku": "A1"}).status_code == 201
    assert not captured_events.flush(DEADLINE)

    captured_events.assert_retained(ORDERS, reason="the broker is down*")
    captured_events.assert_nothing_published()
    assert sent(ORDERS) == []

    captured_events.broker_up()
    assert captured_events.flush(DEADLINE)
    captured_events.assert_sequence([ORDERS, MAIL])
    assert len(sent(ORDERS)) == 1


def test_the_tests_own_code_publishes_in_a_block(
    app: Shop, captured_events: Captured
) -> None:
    with app.events.auto_publish():
        app.enqueue({"id": 1}, queue=ORDERS)
    captured_events.flush(DEADLINE)

    captured_events.assert_published(ORDERS, {"id": 1}, times=1)


def test_the_tests_own_code_without_a_block_gets_a_hint(
    app: Shop, captured_events: Captured
) -> None:
    app.enqueue({"id": 1}, queue=ORDERS)

    with pytest.raises(AssertionError, match="its request has not been torn down"):
        captured_events.assert_published(ORDERS)
