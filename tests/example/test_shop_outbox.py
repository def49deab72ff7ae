"""The shop with an outbox: what a commit has written goes out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_eventcollector.testing import Captured

from .conftest import OpenShop
from .support import books, order, script_client, state, wait_for


@pytest.fixture
def shop(open_shop: OpenShop) -> Iterator[Flask]:
    """Return a shop with an outbox, as it runs in production."""
    outbox = {"EVENTCOLLECTOR_OUTBOX": True, "EVENTCOLLECTOR_TESTING_BROKER": True}
    with open_shop(**outbox) as app:
        yield app


def outbox(visitor: FlaskClient) -> dict[str, Any]:
    shown: dict[str, Any] = state(visitor)["outbox"]
    return shown


def test_the_page_says_whether_there_is_an_outbox(
    visitor: FlaskClient, open_shop: OpenShop
) -> None:
    assert "A commit writes its events as rows" in visitor.get("/").text
    assert outbox(visitor) == {"rows": 0, "last_request": None}

    with open_shop() as without:
        page = without.test_client().get("/").text
        assert "FLASK_EVENTCOLLECTOR_OUTBOX=1" in page
        assert "a zombie state" in page
        assert state(script_client(without))["outbox"] is None


def test_what_is_committed_goes_out_although_the_request_fails(
    visitor: FlaskClient, captured_events: Captured
) -> None:
    answer = visitor.post("/orders/commit-then-fail", data={"product": 1})

    assert answer.status_code == 500
    wait_for(lambda: bool(captured_events.published), "the event goes out")
    captured_events.assert_published("orders.created", {"order_id": 1}, times=1)
    captured_events.assert_no_others()
    assert outbox(visitor)["last_request"] == {"outboxed": 1, "discarded": 0}
    assert [shown["id"] for shown in state(visitor)["orders"]] == [1]
    wait_for(lambda: outbox(visitor)["rows"] == 0, "its row is erased")
    assert books(visitor) == {"outboxed": 1, "confirmed": 1}


def test_a_savepoint_takes_back_only_its_own_event(
    visitor: FlaskClient, captured_events: Captured
) -> None:
    visitor.post("/orders/savepoint", data={"product": 1})

    wait_for(lambda: bool(captured_events.published), "the other goes out")
    captured_events.assert_published("orders.created", {"quantity": 1}, times=1)
    captured_events.assert_discarded("orders.created", {"quantity": 1_000_000})
    assert outbox(visitor)["last_request"] == {"outboxed": 1, "discarded": 1}


def test_what_is_not_committed_leaves_nothing(visitor: FlaskClient) -> None:
    visitor.post("/orders/half-way", data={"product": 1})
    assert outbox(visitor) == {
        "rows": 0,
        "last_request": {"outboxed": 0, "discarded": 0},
    }
    order(visitor, quantity=99)
    assert outbox(visitor)["last_request"] == {"outboxed": 0, "discarded": 1}
    assert books(visitor) == {"discarded": 2}


def test_during_an_outage_the_page_shows_the_rows_that_wait(
    visitor: FlaskClient,
) -> None:
    visitor.post("/broker/down")
    visitor.post("/orders/gift-cards")

    assert outbox(visitor) == {
        "rows": 500,
        "last_request": {"outboxed": 500, "discarded": 0},
    }
    mails, created = state(visitor)["events"]
    assert (mails["state"], mails["count"]) == ("outboxed", 499)
    assert (created["state"], created["count"]) == ("outboxed", 1)

    visitor.post("/broker/up")
    wait_for(lambda: outbox(visitor)["rows"] == 0, "all are sent, and erased")
    # The page hears of it by signals, which come a little later.
    wait_for(
        lambda: {e["state"] for e in state(visitor)["events"]} == {"confirmed"},
        "the page shows them as confirmed",
    )
