"""Turns a payload into an :class:`~flask_eventcollector.events.Event`."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timezone
from decimal import Decimal
from functools import partial
from typing import Any

from ..errors import EncodingError
from ..events import Event
from .amqp_fields import check_name, copy_headers
from .payload_errors import explain
from .wording import type_name

#: Makes a value plain, or raises TypeError: ``default`` of Flask's JSON provider.
Default = Callable[[Any], Any]


def encode_event(
    payload: Any,
    target_queue: str,
    *,
    headers: Mapping[str, Any] | None = None,
    exchange: str = "",
    max_event_bytes: int,
    default: Default | None = None,
) -> Event:
    """Encode one payload for one target queue.

    :param headers: AMQP headers; what AMQP's field tables hold: str, bytes, bool, int
        (64 bits), Decimal (32 bits and a scale), aware datetime (whole seconds since
        1970), None, and lists and dicts of these.
    :param max_event_bytes: the largest body, in bytes.
    :param default: is offered what isn't JSON, a time, a UUID, a Decimal or a
        dataclass; raises TypeError for what it doesn't know.
    :raises TypeError: a name or header of the wrong type.
    :raises ValueError: a name or header that AMQP can't hold.
    :raises EncodingError: the payload isn't JSON, or is too large.
    """
    target_queue = check_name(target_queue, "target_queue")
    exchange = check_name(exchange, "exchange", allow_empty=True)
    kept, headers_size = copy_headers(headers)
    body = _encode_body(payload, default, max_event_bytes)
    return Event(
        id=str(uuid.uuid4()),
        target_queue=target_queue,
        exchange=exchange,
        body=body,
        headers=kept,
        enqueued_at=datetime.now(timezone.utc),
        size=len(body) + headers_size,
    )


def provider_default(provider: Any) -> Default:
    """What a Flask JSON provider does with a type that JSON doesn't have.

    A provider without a ``default`` encodes the value, which is then read back.
    """
    default = getattr(provider, "default", None)
    if callable(default):
        return default  # type: ignore[no-any-return]
    return lambda value: json.loads(provider.dumps(value))


def _encode_body(payload: Any, default: Default | None, limit: int) -> bytes:
    try:
        body = _encoder(default).encode(payload).encode()
    except Exception as error:
        plain = partial(_plain, default=default)
        raise EncodingError(explain(payload, plain, error)) from error
    if len(body) > limit:
        raise EncodingError(
            f"payload takes {len(body)} bytes as JSON, but"
            f" EVENTCOLLECTOR_MAX_EVENT_BYTES is {limit} bytes: send a reference to"
            " the data, or raise EVENTCOLLECTOR_MAX_EVENT_BYTES"
        )
    return body


def _encoder(default: Default | None) -> json.JSONEncoder:
    # Not cached per default: a cache would keep the app alive whose provider it is.
    return json.JSONEncoder(
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
        default=partial(_plain, default=default),
    )


def _plain(value: Any, default: Default | None) -> Any:
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if default is None or isinstance(value, Decimal):
        raise TypeError(f"{type_name(value)} is not JSON")
    return default(value)
