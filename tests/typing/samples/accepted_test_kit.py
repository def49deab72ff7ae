"""Uses of the test kit that type checkers must accept."""

from __future__ import annotations

from typing import Literal

from flask import Flask

from flask_eventcollector import EventCollector, Outcome
from flask_eventcollector.testing import (
    Captured,
    CapturedEvent,
    CapturedEvents,
    FaultInjector,
    event,
)

app = Flask(__name__)
events = EventCollector(app)


def test_orders(captured_events: Captured) -> None:
    captured_events.fail_next(2, outcome="nacked", queue="orders.*")
    captured_events.fail_next(outcome=Outcome.UNKNOWN)

    one: CapturedEvent = captured_events.assert_published("orders", {"id": int})
    both: CapturedEvents = captured_events.assert_published("orders", times=2)
    captured_events.ignore("auth.*", "audit")
    captured_events.assert_sequence([event("orders", exact=True), "mail"])

    unit: Literal["request", "block", "thread", ""] = one.unit
    assert unit == "request"
    assert [found.outcome for found in both] == [Outcome.NACKED, None]


with app.app_context(), events.capture() as captured:
    FaultInjector.of(events.broker).fail_next(Outcome.RETURNED, n=2)
    captured.assert_nothing_published()
