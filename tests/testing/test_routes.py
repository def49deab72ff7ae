"""The queues that get an event, and events that no queue need get, in tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flask_eventcollector.testing import Fate, event
from tests.helpers import Shop, open_shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    exchanges = {"shop": {"type": "topic"}, "news": {"type": "topic"}}
    exchanges["news"]["unrouted"] = "discard"
    queues = {
        "billing": {"bind": ["shop:orders.created", "news:orders.#"]},
        "audit": {"bind": ["shop:orders.#"]},
        "mail": {},
    }
    with open_shop(EXCHANGES=exchanges, QUEUES=queues) as shop:
        yield shop


@pytest.mark.parametrize(
    ("exchange", "key", "routed_to"),
    [
        ("shop", "orders.created", ("billing", "audit")),
        ("shop", "orders.paid", ("audit",)),
        ("shop", "users.created", ()),
        ("", "mail", ("mail",)),
        ("", "others", None),
        ("crm", "orders.created", None),
    ],
)
def test_an_event_knows_the_queues_that_get_it(
    shop: Shop, exchange: str, key: str, routed_to: tuple[str, ...] | None
) -> None:
    with shop.events.capture() as captured:
        shop.events.enqueue_event(1, key, exchange=exchange)
        shop.events.publish()

    (found,) = captured.enqueued
    assert found.routed_to == routed_to


def test_what_was_enqueued_before_the_capture_knows_them_too(shop: Shop) -> None:
    shop.events.enqueue_event(1, "orders.paid", exchange="shop")
    with shop.events.capture() as captured:
        shop.events.publish()

    assert captured.assert_published("orders.paid").routed_to == ("audit",)


def test_what_no_queue_need_get_has_a_list_of_its_own(shop: Shop) -> None:
    with shop.events.capture() as captured:
        shop.events.enqueue_event(1, "users.created", exchange="news")
        shop.events.publish()

        assert captured.unrouted == [event("users.created", 1, exchange="news")]
        captured.assert_nothing_published()
        assert captured.unrouted[0].fate is Fate.UNROUTED
        assert captured.unrouted[0].fate.final
        assert captured.unrouted[0].reason.startswith("nothing is bound to exchange")
        with pytest.raises(AssertionError, match="was unrouted because nothing is bou"):
            captured.assert_published("users.created")
