"""Turns a payload into an :class:`~flask_eventcollector.events.Event`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from decimal import Decimal
from functools import partial
from typing import Any

from ..errors import EncodingError
from ..events import Event
from .amqp_fields import check_name, copy_headers
from .as_text import as_text
from .payload_errors import explain
from .unicode_text import well_formed
from .wording import type_name

#: Converts a value for JSON, or raises TypeError: ``default`` of Flask's JSON provider.
Default = Callable[[Any], Any]


class EventEncoder:
    """Encodes payloads for target queues, by the settings of one app.

    :param exchange: the exchange of events that name none.
    :param max_event_bytes: the largest allowed body, in bytes.
    :param default: converts any value that is not JSON, a time, a UUID, a Decimal or a
        dataclass; raises TypeError for an unknown type.
    :param replace_invalid_text: whether lone surrogates in the payload and the headers
        become U+FFFD; otherwise they are an error.
    """

    def __init__(
        self,
        *,
        exchange: str = "",
        max_event_bytes: int,
        default: Default | None = None,
        replace_invalid_text: bool = False,
    ) -> None:
        self._exchange = exchange
        self._max_event_bytes = max_event_bytes
        self._replace = replace_invalid_text
        self._convert = partial(_convert, default=default)
        self._to_json = json.JSONEncoder(
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
            default=self._convert,
        ).encode

    def encode(
        self,
        payload: Any,
        target_queue: str,
        *,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
    ) -> Event:
        """Encode one payload for one target queue.

        :param headers: AMQP headers. A value must be a str, bytes, bool, int (64 bits),
            None, or a list or dict of these. A Decimal, date, time, datetime or UUID
            becomes a str, as in the payload.
        :raises TypeError: a name or header has the wrong type.
        :raises ValueError: a name or header is invalid in AMQP.
        :raises EncodingError: the payload can't be encoded as JSON, or is too large.
        """
        target_queue = check_name(target_queue, "target_queue")
        if exchange is None:
            exchange = self._exchange
        else:
            exchange = check_name(exchange, "exchange", allow_empty=True)
        headers_copy, headers_size = copy_headers(headers, replace=self._replace)
        body = self._body(payload)
        return Event(
            id=new_id(),
            target_queue=target_queue,
            exchange=exchange,
            body=body,
            headers=headers_copy,
            enqueued_at=datetime.now(timezone.utc),
            size=len(body) + headers_size,
        )

    def _body(self, payload: Any) -> bytes:
        try:
            body = _utf8(self._to_json(payload), self._replace)
        except Exception as error:
            reason = explain(payload, self._convert, error)
            if reason is None:
                raise
            raise EncodingError(reason) from error
        if len(body) > self._max_event_bytes:
            raise EncodingError(
                f"payload takes {len(body)} bytes as JSON, but"
                f" EVENTCOLLECTOR_MAX_EVENT_BYTES is {self._max_event_bytes} bytes:"
                " send a reference to the data, or raise"
                " EVENTCOLLECTOR_MAX_EVENT_BYTES"
            )
        return body


def new_id() -> str:
    """A random UUID, version 4 of RFC 9562.

    :func:`uuid.uuid4` creates an object, and formats it in a loop. Nothing is buffered
    between two calls, so a forked child can't repeat its parent's ids.
    """
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return (
        f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}"
        f"-{variant}{digits[17:20]}-{digits[20:]}"
    )


def provider_default(provider: Any) -> Default:
    """How a Flask JSON provider converts a type that JSON does not have.

    If the provider has no ``default``, the value is encoded and decoded again.
    """
    default = getattr(provider, "default", None)
    if callable(default):
        return default  # type: ignore[no-any-return]
    return lambda value: json.loads(provider.dumps(value))


def _utf8(text: str, replace: bool) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        if not replace:
            raise
        return well_formed(text).encode()


def _convert(value: Any, default: Default | None) -> Any:
    text = as_text(value)
    if text is not None:
        return text
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if default is None or isinstance(value, Decimal):
        raise TypeError(f"{type_name(value)} is not JSON")
    return default(value)
