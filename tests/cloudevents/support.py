"""Encodes CloudEvents without an app."""

from __future__ import annotations

from typing import Any

from flask_eventcollector import Event
from flask_eventcollector.messages.cloudevents import CloudEvents, ContentMode
from flask_eventcollector.messages.encoding import EventEncoder, Ids

IDS = Ids()
SOURCE = "https://example.com/shop"


def encode(
    payload: Any = None,
    mode: str = "binary",
    *,
    prefix: str = "ce-",
    headers: dict[str, Any] | None = None,
    replace: bool = False,
    queue: str = "orders",
    encoder: Any = None,
    **options: Any,
) -> Event:
    cloudevents = CloudEvents(
        ContentMode(mode), SOURCE, prefix, replace_invalid_text=replace
    )
    event_encoder = EventEncoder(
        max_event_bytes=10_000,
        cloudevents=cloudevents,
        replace_invalid_text=replace,
        encoder=encoder,
    )
    return event_encoder.encode(payload, queue, headers, options=options, ids=IDS)
