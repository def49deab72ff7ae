"""What is loaded decides: nothing, OpenTelemetry, or Sentry. In fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from flask_eventcollector.messages.encoding import EventEncoder
from flask_eventcollector.monitoring.tracing import choice
from tests.helpers import open_shop

APP = """
import json, sys
from flask import Flask
from flask_eventcollector import EventCollector

app = Flask("shop")
app.config["TESTING"] = True
events = EventCollector(app)

@app.post("/orders")
def create():
    events.enqueue_event({"id": 7}, "orders.created")
    return "created"

def post():
    app.test_client().post("/orders")
    event = events.broker.get("orders.created")
    return event.id, dict(event.headers)
"""
UNUSED = """
post()
events.close(1)
loaded = [n for n in sys.modules if n.startswith(("opentelemetry.", "sentry_sdk"))]
print(json.dumps(loaded))
"""
SENTRY = """
import sentry_sdk
from sentry_sdk.transport import Transport

class Offline(Transport):
    found = []

    def capture_envelope(self, envelope):
        items = (item for item in envelope.items if item.type == "transaction")
        self.found += [item.payload.json for item in items]

sentry_sdk.init("https://key@localhost/1", transport=Offline, traces_sample_rate=1.0)
id, headers = post()
events.close(1)
sentry_sdk.flush()
(found,) = Offline.found
print(json.dumps({"id": id, "headers": headers, "transaction": found}))
"""
NOT_SET_UP = """
import sentry_sdk
print(json.dumps(post()[1]))
"""
BOTH = """
import sentry_sdk
from opentelemetry import baggage, context
from sentry_sdk.transport import Transport

class Offline(Transport):
    def capture_envelope(self, envelope):
        pass

sentry_sdk.init("https://key@localhost/1", transport=Offline, traces_sample_rate=1.0)
context.attach(baggage.set_baggage("shop", "berlin"))
events.enqueue_event(1, "q", headers={"x": 1})
events.enqueue_event(1, "q", headers={"Sentry-Trace": "own"})
events.publish()
print(json.dumps([dict(event.headers) for event in events.broker.events("q")]))
"""


def run(code: str) -> Any:
    """What *code* prints, after the app's."""
    command = [sys.executable, "-c", APP + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_is_loaded_that_the_app_does_not_use() -> None:
    assert run(UNUSED) == []


def test_without_their_packages_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "is_installed", lambda module: False)
    with open_shop() as shop:
        assert type(shop.extensions["eventcollector"]._encoder) is EventEncoder


def test_sentry_has_a_span_for_each_event_that_its_message_names() -> None:
    about = run(SENTRY)
    headers, transaction = about["headers"], about["transaction"]
    (span,) = (s for s in transaction["spans"] if s["op"] == "queue.publish")
    trace_id, parent = transaction["contexts"]["trace"]["trace_id"], span["span_id"]
    assert headers["sentry-trace"] == f"{trace_id}-{parent}-1"
    assert f"sentry-trace_id={trace_id}" in headers["baggage"]
    assert headers.keys() == {"sentry-trace", "baggage"}
    assert span["description"] == "orders.created"
    assert span["parent_span_id"] == transaction["contexts"]["trace"]["span_id"]
    data = {k: v for k, v in span["data"].items() if k.startswith("messaging.")}
    assert data == {
        "messaging.message.id": about["id"],
        "messaging.destination.name": "orders.created",
        "messaging.message.body.size": len('{"id":7}'),
    }


def test_sentry_that_is_not_set_up_adds_nothing() -> None:
    assert run(NOT_SET_UP) == {}


def test_the_baggage_of_both_is_one_list() -> None:
    first, second = run(BOTH)
    assert first["baggage"].startswith("shop=berlin,sentry-trace_id=")
    assert first.keys() == {"baggage", "sentry-trace", "x"}
    # The caller's own.
    assert second == {"Sentry-Trace": "own", "baggage": "shop=berlin"}
