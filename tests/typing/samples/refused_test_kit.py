"""Uses of the test kit that type checkers must refuse."""

from __future__ import annotations

from typing import Literal

from flask import Flask

from flask_eventcollector import EventCollector, Outcome
from flask_eventcollector.testing import Captured, FaultInjector, event

app = Flask(__name__)
events = EventCollector(app)


def test_orders(captured_events: Captured) -> None:
    captured_events.fail_next(outcome="nackd")  # refused
    captured_events.fail_next(outcome="confirmed")  # refused
    captured_events.fail_next(outcome=Outcome.REFUSED)  # refused
    captured_events.fail_next("nacked")  # refused

    captured_events.ignore(["auth.*"])  # refused

    captured_events.assert_published("orders", reason="cleared")  # refused
    captured_events.assert_published("orders", times="2")  # refused
    captured_events.assert_sequence([event("orders", exactly=True)])  # refused
    captured_events.assert_published("orders", times=2).flush()  # refused

    one = captured_events.assert_published("orders")
    unit: Literal["requests", "blocks"] = one.unit  # refused
    assert unit


FaultInjector.of(events.broker).fail_next("nacked")  # refused
