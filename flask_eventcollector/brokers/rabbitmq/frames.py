"""Encodes the frames of a message, from a template if it says little about itself."""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

from pika import spec
from pika.compat import long
from pika.frame import Body, Header, Method

from ...delivery.entries import Entry
from ...events import JSON_TYPE, NO_PROPERTIES, Properties
from ...messages.amqp_fields import POSSIBLE_DUPLICATE

#: Placeholders in a template for a message's own values.
_ID = "i" * 36
_SECONDS, _SIZE = (int.from_bytes(letter * 8, "big") for letter in (b"t", b"s"))

#: Targets may be named after users or hosts, so their number is unbounded.
_MOST_TEMPLATES = 1000

_long_long = struct.Struct(">Q").pack
_long = struct.Struct(">I").pack
_END = bytes([spec.FRAME_END])
_OVERHEAD = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE


class _Template(NamedTuple):
    """The bytes between a message's body size, id, time, and body."""

    before_size: bytes
    before_id: bytes
    before_seconds: bytes
    before_body: bytes


class MessageFrames:
    """Encodes the messages of one channel into the same bytes as pika.

    Only negative numbers among the headers differ, which take 64 bits.

    Most messages for a target differ only in their id, time and body. pika encodes the
    common parts once. It encodes messages with headers or properties of their own, or
    with several frames, completely. See https://www.rabbitmq.com/amqp-0-9-1-reference#class.basic.
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
        #: By target queue.
        self._templates: dict[str, _Template] = {}

    def encode(self, entry: Entry) -> bytes:
        """The frames of *entry*'s message: method, header and body.

        :raises Exception: pika can't encode a name or a header; it raises errors of
            several kinds.
        """
        event = entry.event
        size = len(event.body)
        if event.headers or entry.possible_duplicate or not event.is_plain:
            return self._encode(entry)
        if not 0 < size <= self._body_max:
            return self._encode(entry)
        queue = event.target.queue
        template = self._templates.get(queue)
        if template is None:
            template = self._add_template(queue)
        id = event.id.encode()
        if len(id) != len(_ID):
            return self._encode(entry)
        return b"".join(
            (
                template.before_size,
                _long_long(size),
                template.before_id,
                id,
                template.before_seconds,
                _long_long(event.microseconds // 1_000_000),
                template.before_body,
                _long(size),
                event.body,
                _END,
            )
        )

    def _add_template(self, queue: str) -> _Template:
        if len(self._templates) >= _MOST_TEMPLATES:
            self._templates.clear()
        properties = self._properties(_ID, _SECONDS, NO_PROPERTIES)
        header = Header(self._channel_number, _SIZE, properties).marshal()
        # The app's name, which may contain anything, comes last.
        before_size, _, rest = header.partition(_long_long(_SIZE))
        before_id, _, rest = rest.partition(_ID.encode())
        before_seconds, _, before_body = rest.partition(_long_long(_SECONDS))
        body = Body(self._channel_number, b"").marshal()
        template = self._templates[queue] = _Template(
            self._method(queue) + before_size,
            before_id,
            before_seconds,
            # Its type and its channel.
            before_body + body[:3],
        )
        return template

    def _encode(self, entry: Entry) -> bytes:
        event = entry.event
        headers = dict(event.headers)
        if entry.possible_duplicate:
            headers[POSSIBLE_DUPLICATE] = True
        seconds = event.microseconds // 1_000_000
        properties = self._properties(event.id, seconds, event.properties)
        properties.headers = signed(headers) or None
        if event.time_left is not None:
            # From now on, the broker counts. At 0, it would take it for expired.
            properties.expiration = str(max(1, math.ceil(event.time_left * 1000)))
        size = len(event.body)
        bodies = [
            Body(self._channel_number, event.body[start : start + self._body_max])
            for start in range(0, size, self._body_max)
        ]
        header = Header(self._channel_number, size, properties)
        frames = [self._method(event.target_queue), header.marshal()]
        return b"".join([*frames, *(body.marshal() for body in bodies)])

    def _method(self, queue: str) -> bytes:
        publish = spec.Basic.Publish(
            exchange=self._exchange, routing_key=queue, mandatory=self._mandatory
        )
        return Method(self._channel_number, publish).marshal()

    def _properties(
        self, id: str, seconds: int, own: Properties
    ) -> spec.BasicProperties:
        return spec.BasicProperties(
            content_type=own.content_type or JSON_TYPE,
            content_encoding=own.content_encoding,
            delivery_mode=2,
            priority=own.priority,
            correlation_id=own.correlation_id,
            reply_to=own.reply_to,
            message_id=id,
            timestamp=seconds,
            type=own.type,
            app_id=self._app_id,
        )


def signed(value: Any) -> Any:
    """*value* with its negative numbers in 64 bits.

    Ruby's amq-protocol decodes 32 bits as unsigned.
    """
    if isinstance(value, dict):
        return {key: signed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [signed(item) for item in value]
    return long(value) if isinstance(value, int) and value < 0 else value
