"""Faults of the embedded broker."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app.broker import embedded_broker
from flask_eventcollector.testing import Captured

from .conftest import OpenShop
from .support import books, order, state, wait_for


@pytest.mark.parametrize(("fault", "name"), [("down", "down"), ("block", "blocked")])
def test_orders_succeed_without_the_broker_and_are_published_later(
    visitor: FlaskClient, fault: str, name: str
) -> None:
    visitor.post(f"/broker/{fault}")
    assert order(visitor) == 201

    shown = state(visitor)
    assert shown["broker"]["state"] == name
    assert shown["events"][0]["state"] == "retained"
    assert shown["events"][0]["reason"]
    assert books(visitor) == {"retained": 1}
    assert shown["books"]["oldest_age"] >= 0

    visitor.post("/broker/up")
    wait_for(lambda: books(visitor) == {"confirmed": 1}, "the order is published")
    wait_for(
        lambda: bool(state(visitor)["events"][0]["state"] == "confirmed"),
        "the page shows it",
    )


def test_a_missing_queue_holds_up_no_other(visitor: FlaskClient) -> None:
    visitor.post("/broker/lose-queue")
    visitor.post("/orders/gift-cards")
    order(visitor)

    assert books(visitor) == {"confirmed": 2, "retained": 499}
    waiting, refused = (
        e for e in state(visitor)["events"] if e["queue"] == "mail.send"
    )
    assert waiting["state"] == refused["state"] == "retained"
    # One target has 200 events in flight at most; the others wait behind them.
    assert waiting["reason"] == "the broker refused other events for the same target"
    assert "mail.send" in refused["reason"]


@pytest.mark.parametrize("button", ["retry", "purge"])
def test_dead_events_are_listed_and_can_be_sent_again_or_dropped(
    open_shop: OpenShop, button: str
) -> None:
    settings = {
        "EVENTCOLLECTOR_DEAD_AFTER": 0.05,
        "EVENTCOLLECTOR_RETRY_DELAY": 0.02,
        "EVENTCOLLECTOR_RETRY_MAX_DELAY": 0.02,
    }
    with open_shop(**settings) as shop:
        visitor = shop.test_client()
        visitor.post("/broker/lose-queue")
        visitor.post("/orders/gift-cards")
        wait_for(lambda: books(visitor).get("dead") == 499, "the mails are dead")
        (dead,) = state(visitor)["dead"]
        assert (dead["queue"], dead["count"]) == ("mail.send", 499)
        assert "mail.send" in dead["reason"]

        if button == "retry":
            visitor.post("/broker/up")
        visitor.post(f"/broker/{button}")

        expected = {"confirmed": 500}
        if button == "purge":
            expected = {"confirmed": 1, "dropped": 499}
        wait_for(lambda: books(visitor) == expected, f"{button} has its effect")
        assert state(visitor)["dead"] == []


def test_send_now_shows_whether_events_are_still_waiting(
    visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("example_app.broker.FLUSH_TIMEOUT", 0.05)
    assert _message(visitor, "/broker/flush") == "The backlog is empty."
    visitor.post("/broker/down")
    order(visitor)
    assert _message(visitor, "/broker/flush") == "Some events are still waiting."


def test_playing_the_worker_turns_an_order_into_an_invoice(
    visitor: FlaskClient, captured_events: Captured
) -> None:
    assert "is empty" in _message(visitor, "/broker/consume")
    order(visitor)
    assert "requested its invoice" in _message(visitor, "/broker/consume")

    assert books(visitor) == {"confirmed": 2}
    cause = captured_events.assert_published("orders.created")
    captured_events.assert_published(
        "invoices.requested",
        {"invoice_id": 1, "order_id": 1, "total": "9.50"},
        headers={"caused-by": cause.id},
        exact=True,
    )


def test_playing_the_worker_handles_each_message_once(
    visitor: FlaskClient,
    shop: Flask,
    captured_events: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order(visitor)
    with shop.app_context():
        broker = embedded_broker()
    assert broker
    created = broker.get("orders.created")
    monkeypatch.setattr(broker, "get", lambda queue: created)

    assert "requested its invoice" in _message(visitor, "/broker/consume")
    assert "a second copy" in _message(visitor, "/broker/consume")
    captured_events.assert_published("invoices.requested", times=1)


def _message(visitor: FlaskClient, url: str) -> str:
    message: str = visitor.post(url).get_json()["message"]
    return message
