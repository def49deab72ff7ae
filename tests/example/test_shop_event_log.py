"""The event log behind the page."""

from __future__ import annotations

from flask import Flask
from flask.testing import FlaskClient

from example_app.event_log import EventLog, current_event_log
from example_app.publishing import events

from .support import order


def test_it_keeps_the_newest_events(shop: Flask) -> None:
    log = EventLog(limit=3)
    log.init_app(shop)
    with shop.app_context(), events.auto_publish():
        sent = [events.enqueue_event(n, f"queue-{n}") for n in range(5)]

    newest = list(reversed(sent))[:3]
    assert [row["id"] for row in log.rows(limit=10)] == [e.id for e in newest]


def test_equal_events_of_one_request_share_a_row_and_others_do_not(
    shop: Flask, visitor: FlaskClient
) -> None:
    order(visitor)
    order(visitor)

    with shop.app_context():
        assert [row["count"] for row in current_event_log().rows(limit=10)] == [1, 1]


def test_it_returns_no_more_rows_than_it_is_asked_for(
    shop: Flask, visitor: FlaskClient
) -> None:
    for _ in range(3):
        order(visitor)

    with shop.app_context():
        assert len(current_event_log().rows(limit=2)) == 2
