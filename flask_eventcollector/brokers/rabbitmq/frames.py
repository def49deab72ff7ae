"""Encodes the frames of a message, with a template for what messages have in common."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pika import spec
from pika.frame import Body, Method

from ...delivery.entries import Entry
from ...events import JSON_TYPE, Event
from ...messages.amqp_fields import POSSIBLE_DUPLICATE
from .field_table import encoded_table, short_string

_Properties = spec.BasicProperties
#: What each message says about itself.
_ALWAYS = (
    _Properties.FLAG_CONTENT_TYPE
    | _Properties.FLAG_DELIVERY_MODE
    | _Properties.FLAG_MESSAGE_ID
    | _Properties.FLAG_TIMESTAMP
    | _Properties.FLAG_APP_ID
)
#: What some do, by the names of the properties.
_OPTIONAL = {
    "content_encoding": _Properties.FLAG_CONTENT_ENCODING,
    "priority": _Properties.FLAG_PRIORITY,
    "correlation_id": _Properties.FLAG_CORRELATION_ID,
    "reply_to": _Properties.FLAG_REPLY_TO,
    "expires_in": _Properties.FLAG_EXPIRATION,
    "type": _Properties.FLAG_TYPE,
}

#: Targets may be named after users or hosts, so their number is unbounded.
_MOST_TEMPLATES = 1000

_PERSISTENT = bytes([spec.PERSISTENT_DELIVERY_MODE])
_CLASS = spec.BasicProperties.INDEX
_HEADER, _END = bytes([spec.FRAME_HEADER]), bytes([spec.FRAME_END])
_OVERHEAD = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE

_pack_short, _pack_long, _pack_long_long = (
    struct.Struct(f">{size}").pack for size in "HIQ"
)
#: The size of a header frame; its class and weight, and the size of the body.
_pack_sizes = struct.Struct(">IHHQ").pack
#: What the latter take in the frame, and what the time does, in bytes.
_SIZES, _TIME = 12, 8


class _Kind(NamedTuple):
    """What decides about a template."""

    queue: str
    #: Which properties there are.
    flags: int = _ALWAYS
    content_type: str = JSON_TYPE
    content_encoding: str | None = None
    priority: int | None = None
    type: str | None = None


class _Template(NamedTuple):
    """The bytes between what each message has of its own."""

    #: The method frame, and the type and channel of the header frame.
    before_size: bytes
    #: The size of the header frame, without what is the message's own.
    size: int
    before_headers: bytes
    before_ids: bytes
    #: What is behind the time, in the header frame.
    end: bytes


class MessageFrames:
    """Encodes the messages of one channel into the same bytes as pika.

    Only negative numbers among the headers differ.

    Most messages for a target differ only in their headers, ids, time and body. What
    they have in common is encoded once. See
    https://www.rabbitmq.com/amqp-0-9-1-reference#class.basic.
    """

    def __init__(
        self,
        channel_number: int,
        exchange: str,
        *,
        app_id: str,
        frame_max: int,
        mandatory: bool,
    ) -> None:
        self._channel_number = channel_number
        self._exchange = exchange
        self._app_id = app_id
        self._mandatory = mandatory
        #: The most bytes of a body in one frame.
        self._body_max = frame_max - _OVERHEAD
        #: The type and channel of a body's frame.
        self._before_body = Body(channel_number, b"").marshal()[:3]
        #: By kind; that of a message without headers and properties is its queue.
        self._templates: dict[str | _Kind, _Template] = {}

    def encode(self, entry: Entry) -> bytes:
        """The frames of *entry*'s message: method, header and body.

        :raises TypeError: AMQP does not have the type of a header.
        :raises ValueError: a name is too long, or not Unicode.
        """
        event = entry.event
        headers = _headers(entry)
        ids = short_string(event.id)
        kind: str | _Kind = event.target.queue
        if headers or not event.is_plain:
            kind = _kind_of(event, has_headers=bool(headers))
            ids = _other_ids(event) + ids
        template = self._templates.get(kind) or self._add_template(kind)
        before_size, size, before_headers, before_ids, end = template
        size += len(headers) + len(ids)
        body = event.body
        parts = [
            before_size,
            _pack_sizes(size, _CLASS, 0, len(body)),
            before_headers,
            headers,
            before_ids,
            ids,
            _pack_long_long(event.microseconds // 1_000_000),
            end,
        ]
        if 0 < len(body) <= self._body_max:
            parts += self._before_body, _pack_long(len(body)), body, _END
        else:
            parts += self._bodies(body)
        return b"".join(parts)

    def _bodies(self, body: bytes) -> Iterator[bytes]:
        """The frames of a *body* that is empty, or needs several."""
        for start in range(0, len(body), self._body_max):
            part = body[start : start + self._body_max]
            yield Body(self._channel_number, part).marshal()

    def _add_template(self, kind: str | _Kind) -> _Template:
        if len(self._templates) >= _MOST_TEMPLATES:
            self._templates.clear()
        template = self._template(_Kind(kind) if isinstance(kind, str) else kind)
        self._templates[kind] = template
        return template

    def _template(self, kind: _Kind) -> _Template:
        publish = spec.Basic.Publish(
            exchange=self._exchange, routing_key=kind.queue, mandatory=self._mandatory
        )
        method = Method(self._channel_number, publish).marshal()
        types = (kind.content_type, kind.content_encoding)
        before_headers = _pack_short(kind.flags) + _short_strings(*types)
        priority = b"" if kind.priority is None else bytes((kind.priority,))
        before_ids = _PERSISTENT + priority
        end = _short_strings(kind.type, self._app_id)
        return _Template(
            method + _HEADER + _pack_short(self._channel_number),
            _SIZES + len(before_headers) + len(before_ids) + _TIME + len(end),
            before_headers,
            before_ids,
            end + _END,
        )


def _headers(entry: Entry) -> bytes:
    """The headers of *entry*'s message; empty: there are none."""
    headers = entry.event.headers
    if entry.possible_duplicate:
        return encoded_table({**headers, POSSIBLE_DUPLICATE: True})
    return encoded_table(headers) if headers else b""


def _kind_of(event: Event, *, has_headers: bool) -> _Kind:
    flags = _ALWAYS | (_Properties.FLAG_HEADERS if has_headers else 0)
    if event.is_plain:
        return _Kind(event.target.queue, flags)
    own = event.properties
    for name, flag in _OPTIONAL.items():
        if getattr(own, name) is not None:
            flags |= flag
    return _Kind(
        event.target.queue,
        flags,
        own.content_type or JSON_TYPE,
        own.content_encoding,
        own.priority,
        own.type,
    )


def _other_ids(event: Event) -> bytes:
    """What stands before the id, and is as a rule another one in each message."""
    own, left = event.properties, event.time_left
    # From now on, the broker counts. At 0, it would take it for expired.
    expiration = None if left is None else str(max(1, math.ceil(left * 1000)))
    return _short_strings(own.correlation_id, own.reply_to, expiration)


def _short_strings(*texts: str | None) -> bytes:
    return b"".join([short_string(text) for text in texts if text is not None])
