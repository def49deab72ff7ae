"""Messages that the official SDK writes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from flask_eventcollector import Event, received
from flask_eventcollector.events import Properties
from flask_eventcollector.messages.cloudevents import attributes_of
from tests.cloudevents import sdk

ABOUT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "7",
    "source": "/sdk",
    "type": "com.example.order",
    "time": datetime(2026, 1, 2, 3, 4, 5, 678, timezone.utc),
    "subject": "order-7",
    "datacontenttype": "application/json",
    "comexampletenant": "acme",
}


def test_received_reads_what_the_sdk_writes() -> None:
    properties, _ = sdk.write(ABOUT, {"a": 1}, "binary")

    message = received(properties)

    assert message.attributes == ABOUT
    assert (message.headers, message.id) == ({}, "7")


@pytest.mark.parametrize("mode", ["binary", "structured"])
@pytest.mark.parametrize("data", [{"a": 1}, b"\xff\x00"], ids=["JSON", "bytes"])
def test_an_event_reads_what_the_sdk_writes(mode: str, data: Any) -> None:
    kind = "application/json" if isinstance(data, dict) else "image/png"
    properties, body = sdk.write({**ABOUT, "datacontenttype": kind}, data, mode)

    event = Event.of(
        id="7",
        target_queue="q",
        exchange="",
        body=body,
        headers=properties.headers or {},
        enqueued_at=ABOUT["time"],
        size=1,
        properties=Properties(content_type=properties.content_type),
    )

    assert event.payload == data
    moment = "2026-01-02T03:04:05.000678Z"
    expected = {**ABOUT, "time": moment, "datacontenttype": kind}
    assert attributes_of(event) == expected
