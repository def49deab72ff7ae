"""Orders: the effect of each button of the page."""

from __future__ import annotations

import re

from flask.testing import FlaskClient

from flask_eventcollector.testing import Captured

from .conftest import OpenShop
from .support import books, order, state


def test_an_order_is_published_when_its_request_has_succeeded(
    visitor: FlaskClient, captured_events: Captured
) -> None:
    assert order(visitor, quantity=2) == 201

    captured_events.assert_published("orders.created", {"quantity": 2}, times=1)
    captured_events.assert_no_others()
    assert books(visitor) == {"confirmed": 1}
    shown = state(visitor)
    assert shown["orders"][0]["quantity"] == 2
    assert shown["orders"][0]["total"] == "19.00"
    assert shown["products"][0]["stock"] == 38
    (event,) = shown["events"]
    assert (event["queue"], event["state"]) == ("orders.created", "confirmed")


def test_a_consumer_reads_the_order_as_plain_values(
    visitor: FlaskClient, captured_events: Captured
) -> None:
    order(visitor)

    captured_events.assert_published(
        "orders.created",
        {
            "order_id": 1,
            "product": "Coffee mug",
            "quantity": 1,
            "total": "9.50",
            "placed_at": re.compile(r"\+00:00$"),
        },
        exact=True,
    )


def test_an_order_that_fails_half_way_leaves_nothing(
    visitor: FlaskClient, captured_events: Captured
) -> None:
    answer = visitor.post("/orders/half-way", data={"product": 1})

    assert answer.status_code == 500
    assert answer.get_json() == {"message": "The view raised PaymentFailed."}
    captured_events.assert_discarded(
        "orders.created", reason="PaymentFailed was raised", times=1
    )
    assert books(visitor) == {"discarded": 1}
    shown = state(visitor)
    assert shown["orders"] == []
    assert shown["products"][0]["stock"] == 40
    assert shown["events"][0]["state"] == "discarded"
    assert shown["events"][0]["reason"]


def test_an_order_that_the_database_refuses_leaves_nothing(
    visitor: FlaskClient, captured_events: Captured
) -> None:
    assert order(visitor, quantity=41) == 409

    captured_events.assert_nothing_published()
    captured_events.assert_discarded(
        "orders.created", reason="the transaction was rolled back"
    )
    assert books(visitor) == {"discarded": 1}
    assert state(visitor)["orders"] == []


def test_an_order_that_fails_after_its_commit_leaves_a_zombie_state(
    visitor: FlaskClient, captured_events: Captured
) -> None:
    answer = visitor.post("/orders/commit-then-fail", data={"product": 1})

    assert answer.status_code == 500
    assert answer.get_json() == {"message": "The view raised TooLate."}
    captured_events.assert_nothing_published()
    captured_events.assert_discarded("orders.created", reason="TooLate was raised")
    assert [shown["id"] for shown in state(visitor)["orders"]] == [1]


def test_a_savepoint_that_is_rolled_back_takes_only_its_own_event(
    visitor: FlaskClient, captured_events: Captured
) -> None:
    assert visitor.post("/orders/savepoint", data={"product": 1}).status_code == 201

    captured_events.assert_published("orders.created", {"quantity": 1}, times=1)
    captured_events.assert_discarded(
        "orders.created", reason="the transaction was rolled back", times=1
    )
    shown = state(visitor)
    assert [order["quantity"] for order in shown["orders"]] == [1]
    assert shown["products"][0]["stock"] == 39


def test_an_order_with_500_events_is_one_batch(
    visitor: FlaskClient, captured_events: Captured
) -> None:
    assert visitor.post("/orders/gift-cards").status_code == 201

    captured_events.assert_sequence(["orders.created", "mail.send"], strict=True)
    mails = captured_events.assert_published(
        "mail.send", {"template": "gift-card"}, times=499
    )
    assert [mail.payload["card"] for mail in mails] == list(range(1, 500))
    assert books(visitor) == {"confirmed": 500}
    mails, created = state(visitor)["events"]
    assert (mails["queue"], mails["count"]) == ("mail.send", 499)
    assert (created["queue"], created["count"]) == ("orders.created", 1)


def test_at_the_limit_events_are_dropped_and_counted(open_shop: OpenShop) -> None:
    with open_shop(EVENTCOLLECTOR_MAX_EVENTS=600) as shop:
        visitor = shop.test_client()
        visitor.post("/broker/down")
        for _ in range(2):
            visitor.post("/orders/gift-cards")

        # The last tenth is for smaller units of work.
        assert books(visitor) == {"retained": 561, "dropped": 439}
        dropped = state(visitor)["events"][0]
        assert (dropped["state"], dropped["count"]) == ("dropped", 439)
        assert dropped["reason"]


def test_a_wrong_quantity_is_refused(visitor: FlaskClient) -> None:
    for quantity in (0, -1, 1_000_001):
        assert order(visitor, quantity) == 400
    assert books(visitor) == {}


def test_a_product_that_does_not_exist_is_refused(visitor: FlaskClient) -> None:
    answer = visitor.post("/orders", data={"product": 77, "quantity": 1})

    assert answer.status_code == 404
    assert answer.get_json() == {"message": "There is no such product."}
