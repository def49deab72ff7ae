"""Orders."""

from __future__ import annotations

import re
from unittest.mock import ANY

import pytest
from bookshop import events, restock
from flask import Flask
from flask.testing import FlaskClient

from flask_eventcollector.testing import Captured, event


def test_an_order_is_published(client: FlaskClient, captured_events: Captured) -> None:
    client.post("/orders", json={"book": "dune"})

    captured_events.assert_published("orders.created", {"book": "dune"}, times=1)
    captured_events.assert_published("mail.send", {"to": re.compile("@")})


def test_an_order_is_published_in_sequence(
    client: FlaskClient, captured_events: Captured
) -> None:
    client.post("/orders", json={"book": "dune"})

    captured_events.assert_sequence(["orders.created", "mail.send"], strict=True)


def test_a_book_that_is_out_of_stock_publishes_nothing(
    client: FlaskClient, captured_events: Captured
) -> None:
    client.post("/orders", json={"book": "emma"})

    captured_events.assert_nothing_published()
    captured_events.assert_discarded("orders.*", reason="the response was 409")


def test_a_job_publishes_outside_of_requests(app: Flask) -> None:
    with app.app_context(), events.capture() as captured:
        restock("emma", 5)

    assert captured.published == [event("stock.counted", {"book": ANY, "copies": 5})]


def test_an_outage_loses_nothing(
    client: FlaskClient, captured_events: Captured
) -> None:
    captured_events.broker_down()
    assert client.post("/orders", json={"book": "dune"}).status_code == 201
    captured_events.assert_retained("orders.created")

    captured_events.broker_up()
    assert captured_events.flush()

    captured_events.assert_published("orders.created")
    captured_events.assert_published("mail.send")


@pytest.mark.parametrize("number", range(10))
def test_tests_do_not_see_each_others_events(
    client: FlaskClient, captured_events: Captured, number: int
) -> None:
    captured_events.fail_next(number + 1, outcome="nacked")
    client.post("/orders", json={"book": "dune"})

    assert len(captured_events.enqueued) == 2
    captured_events.assert_retained("orders.created", times=1)
    if number == 0:
        captured_events.assert_published("mail.send")


def test_a_failure_ends_the_search(
    client: FlaskClient, captured_events: Captured
) -> None:
    client.post("/orders", json={"book": "emma"})

    with pytest.raises(AssertionError, match="discarded because the response was 409"):
        captured_events.assert_published("orders.created", {"book": "emma"})
