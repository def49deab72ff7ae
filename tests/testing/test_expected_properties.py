"""Assertions on what events say about themselves."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest

from flask_eventcollector.testing import Captured, event
from tests.helpers import Shop

from .shop_app import failure

ABOUT: dict[str, Any] = {
    "type": "order.created",
    "correlation_id": str(UUID(int=7)),
    "priority": 5,
}


@pytest.fixture
def published(shop: Shop, captured: Captured) -> Captured:
    with shop.events.auto_publish():
        shop.events.enqueue_event({"id": 1}, "orders", **ABOUT)
    return captured


@pytest.mark.parametrize(
    "expected",
    [
        ABOUT,
        {"priority": int},
        {"priority": lambda value: value > 4},
        {"correlation_id": UUID(int=7)},
        {"reply_to": None},
        {"content_type": "application/json"},
    ],
    ids=["all", "type", "predicate", "UUID", "None", "text"],
)
def test_properties_are_asserted_on(published: Captured, expected: Any) -> None:
    published.assert_published("orders", **expected)
    published.assert_enqueued("orders", {"id": 1}, times=1, **expected)
    assert published.published == [event("orders", **expected)]


@pytest.mark.parametrize(
    "key",
    ["7", 7, ("order", 7), UUID(int=7), b"7", None],
    ids=["text", "number", "tuple", "UUID", "bytes", "none"],
)
def test_a_key_is_compared_as_it_is(shop: Shop, captured: Captured, key: Any) -> None:
    with shop.events.auto_publish():
        shop.events.enqueue_event({"id": 1}, "orders", key=key)

    captured.assert_published("orders", key=key)
    captured.assert_published("orders", key=lambda found: found == key)
    captured.assert_not_published("orders", key=("order", 8))
    if key is not None:
        captured.assert_published("orders", key=type(key))
        captured.assert_not_published("orders", key=None)


def test_a_key_may_fit_a_pattern(shop: Shop, captured: Captured) -> None:
    with shop.events.auto_publish():
        shop.events.enqueue_event({"id": 1}, "orders", key="order-7")

    captured.assert_published("orders", key=re.compile("7$"))
    message = failure(lambda: captured.assert_published("orders", key=("order", 7)))
    assert "key: expected ('order', 7), found 'order-7'" in message


def test_a_wrong_property_is_shown(published: Captured) -> None:
    message = failure(lambda: published.assert_published("orders", priority=6))
    assert "published to 'orders' with priority 6" in message
    assert "priority: expected 6, found 5" in message
    assert "priority=5" in message


def test_an_expected_event_shows_its_properties() -> None:
    assert repr(event("orders", priority=6, type=str)) == (
        "event('orders', priority=6, type=str)"
    )


def test_an_unknown_property_is_refused() -> None:
    with pytest.raises(TypeError, match=r"event\(\) has no argument 'prio': there are"):
        event("orders", prio=6)  # type: ignore[call-arg]


def test_what_no_property_can_be_is_refused(published: Captured) -> None:
    with pytest.raises(TypeError, match="the expected priority is of type bytes"):
        published.assert_published("orders", priority=b"5")


def test_bytes_are_asserted_on(shop: Shop, captured: Captured) -> None:
    with shop.events.auto_publish():
        shop.events.enqueue_event(b"\xff", "files", content_type="image/png")
    captured.assert_published("files", b"\xff", content_type="image/png")
    message = failure(lambda: captured.assert_published("files", b"\xfe"))
    assert r"payload: expected b'\xfe', found b'\xff'" in message


def test_what_was_enqueued_is_asserted_on_whatever_became_of_it(
    shop: Shop, captured: Captured
) -> None:
    shop.events.enqueue_event({"id": 1}, "orders")
    captured.assert_enqueued("orders", {"id": 1})
    shop.events.clear_events_to_publish()
    captured.assert_enqueued("orders", {"id": 1})
    message = failure(lambda: captured.assert_enqueued("orders", {"id": 2}))
    assert "enqueued for 'orders' with the payload {'id': 2}" in message
    assert "payload['id']: expected 2, found 1" in message
    assert "All that was enqueued" in message


def test_bytes_inside_of_json_are_refused(captured: Captured) -> None:
    with pytest.raises(TypeError, match=r"the expected payload\['a'\] is of type byt"):
        captured.assert_published("files", {"a": b"x"})
