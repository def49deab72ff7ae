"""Turns a payload into an :class:`~flask_eventcollector.events.Event`."""

from __future__ import annotations

import dataclasses
import json
import json.encoder
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

from ..errors import EncodingError
from ..events import (
    JSON_TYPE,
    Event,
    Properties,
    Target,
    is_in_utf8,
    is_json,
    make_event,
)
from .amqp_fields import (
    BATCH_HEADERS_BYTES,
    NO_HEADERS,
    RESERVED,
    RESERVED_IN_BATCHES,
    check_name,
    check_table,
    copy_headers,
)
from .as_text import as_text
from .cloudevents import CloudEvents
from .draft import BeforeEnqueue, Encoder, EventDraft, encode_by, prepare
from .options import ATTRIBUTES, check_text, read_options, size_of
from .payload_errors import explain
from .protocols import by_protocol
from .unicode_text import well_formed
from .wording import type_name

#: Converts a value for JSON, or raises TypeError: ``default`` of Flask's JSON provider.
Default = Callable[[Any], Any]

#: What goes out as it is, if its type is named.
_BYTES = (bytes, bytearray, memoryview)

#: Targets may be named after users or hosts, so their number is unbounded.
_MOST_TARGETS = 1000

#: The bits of a UUID that are random, and those that name its version and variant. See
#: https://www.rfc-editor.org/rfc/rfc9562#section-5.4.
_RANDOM = ~((0xF << 76) | (0b11 << 62))
_VERSION_4 = (4 << 76) | (0b10 << 62)
_IDS_AT_A_TIME = 64


class Ids:
    """Makes random UUIDs, version 4 of RFC 9562, for one process.

    They are made in blocks, which takes less time. A forked child needs its own object:
    it would repeat its parent's ids.
    """

    def __init__(self) -> None:
        self._ids: deque[int] = deque()

    def new(self) -> int:
        """An id, as a number. Takes no lock."""
        while True:
            try:
                return self._ids.pop()
            except IndexError:
                self._ids.extend(_random_ids(_IDS_AT_A_TIME))


def _random_ids(count: int) -> list[int]:
    random = os.urandom(16 * count)
    return [
        int.from_bytes(random[at : at + 16], "big") & _RANDOM | _VERSION_4
        for at in range(0, len(random), 16)
    ]


class EventEncoder:
    """Encodes payloads for target queues, by the settings of one app.

    :param exchange: the exchange of events that name none.
    :param internal: the exchanges that refuse all events.
    :param max_event_bytes: the largest allowed body, in bytes.
    :param default: converts any value that is not JSON, a time, a UUID, a Decimal or a
        dataclass; raises TypeError for an unknown type, which is then converted by its
        own protocol.
    :param replace_invalid_text: whether lone surrogates in the payload and the headers
        become U+FFFD; otherwise they are an error.
    :param encoder: makes the bodies, except of bytes whose type is named; ``None``:
        they are JSON.
    :param before_enqueue: changes each event before it is checked and encoded.
    :param batch_headers: whether each event gets headers about its batch later.
    :param cloudevents: makes a CloudEvent of each event; ``None``: nothing does.
    """

    def __init__(
        self,
        *,
        exchange: str = "",
        internal: Collection[str] = (),
        max_event_bytes: int,
        default: Default | None = None,
        replace_invalid_text: bool = False,
        encoder: Encoder | None = None,
        before_enqueue: BeforeEnqueue | None = None,
        batch_headers: bool = False,
        cloudevents: CloudEvents | None = None,
    ) -> None:
        self._exchange = exchange
        self._internal = internal
        self._max_event_bytes = max_event_bytes
        self._replace = replace_invalid_text
        self._encoder = encoder
        self._before_enqueue = before_enqueue
        self._cloudevents = cloudevents
        #: Whether an event without options may have properties.
        self._describes = encoder is not None or cloudevents is not None
        self._reserved = RESERVED_IN_BATCHES if batch_headers else RESERVED
        #: The size of what is added later, in bytes.
        self._added = BATCH_HEADERS_BYTES if batch_headers else 0
        self._convert = partial(_convert, default=default)
        self._to_json = _json_encoder(self._convert)
        #: Names that were checked: the queue, and the exchange if one was given.
        self._targets: dict[tuple[str, str | None], Target] = {}

    def encode(
        self,
        payload: Any,
        target_queue: str,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        ids: Ids,
    ) -> Event:
        """Encode one payload for one target queue.

        :param headers: AMQP headers. A value must be a str, bytes, bool, int (64 bits),
            None, or a list or dict of these. A Decimal, date, time, datetime or UUID
            becomes a str, as in the payload.
        :param options: an :class:`.EventOptions`.
        :param ids: makes the id.
        :raises TypeError: a name, header or option has the wrong type.
        :raises ValueError: a name, header or option is invalid in AMQP.
        :raises EncodingError: the payload can't be encoded as JSON, or is too large.
        """
        if self._before_enqueue is not None:
            if headers is not None:
                check_table(headers, "headers")
            own = ({**(headers or {})}, {**(options or {})})
            draft = EventDraft(payload, target_queue, exchange, *own)
            prepare(draft, self._before_enqueue)
            payload, target_queue, exchange, headers, options = draft.parts()
        target = self._target(target_queue, exchange)
        kept, size = NO_HEADERS, self._added
        if headers is not None:
            kept, size = copy_headers(
                headers, replace=self._replace, reserved=self._reserved
            )
            size += self._added
        if options or self._describes:
            about = (target, kept, size)
            return self._described(payload, options or {}, *about, ids=ids)
        body = self._body(payload)
        size += len(body)
        return Event(ids.new(), target, body, kept, time.time_ns() // 1000, size)

    def _target(self, queue: str, exchange: str | None) -> Target:
        if type(queue) is not str or (
            exchange is not None and type(exchange) is not str
        ):
            # Perhaps not hashable.
            return self._checked_target(queue, exchange)
        target = self._targets.get((queue, exchange))
        if target is None:
            target = self._checked_target(queue, exchange)
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            self._targets[queue, exchange] = target
        return target

    def _checked_target(self, queue: str, exchange: str | None) -> Target:
        queue = check_name(queue, "target_queue")
        if exchange is None:
            return Target(self._exchange, queue)
        exchange = check_name(exchange, "exchange", allow_empty=True)
        if exchange in self._internal:
            raise ValueError(
                f"exchange is {exchange!r}, to which only other exchanges may publish:"
                " leave out 'internal' in EVENTCOLLECTOR_EXCHANGES, or name another one"
            )
        return Target(exchange, queue)

    def _described(
        self,
        payload: Any,
        options: Mapping[str, Any],
        target: Target,
        headers: Mapping[str, Any],
        size: int,
        *,
        ids: Ids,
    ) -> Event:
        """An event that has properties; *size* is that of its headers."""
        attributes = options.get(ATTRIBUTES)
        if self._cloudevents is not None and options.get("type") is None:
            options = {**options, "type": target.queue}
        properties = read_options(options)
        body, properties = self._content(payload, target.queue, properties)
        size += len(body) + size_of(properties)
        about = (time.time_ns() // 1000, size, properties)
        event = make_event(ids.new(), target, body, headers, *about)
        if self._cloudevents is not None:
            is_own = self._encoder is None and not isinstance(payload, _BYTES)
            event = self._in_context(event)
            return self._cloudevents.wrap(event, attributes, is_checked=is_own)
        if attributes is not None:
            raise ValueError(
                "attributes are those of a CloudEvent: set EVENTCOLLECTOR_CLOUDEVENTS"
                " to 'binary' or 'structured', or leave them out"
            )
        return event

    def _in_context(self, event: Event) -> Event:
        """*event* with headers about the code that enqueues it, if there are any."""
        return event

    def _content(
        self, payload: Any, queue: str, properties: Properties
    ) -> tuple[bytes, Properties]:
        """The body of a message, and its properties, which name what that is."""
        named = properties.content_type
        if named is not None and isinstance(payload, _BYTES):
            return self._fitting(bytes(payload)), properties
        if self._encoder is not None:
            body, found = encode_by(self._encoder, payload, queue)
            content_type = named or check_text(found, "the encoder's content type")
            if content_type != JSON_TYPE:
                properties = replace(properties, content_type=content_type)
            return self._fitting(body), properties
        is_named = named is not None or properties.content_encoding is not None
        if is_named and not isinstance(payload, _BYTES):
            _check_is_json(properties, payload)
        return self._body(payload), properties

    def _fitting(self, body: bytes) -> bytes:
        if len(body) > self._max_event_bytes:
            raise self._too_large(body, "")
        return body

    def _body(self, payload: Any) -> bytes:
        try:
            body = _utf8(self._to_json(payload), self._replace)
        except Exception as error:
            reason = self._reason(payload, error)
            if reason is None:
                raise
            raise EncodingError(reason) from error
        if len(body) > self._max_event_bytes:
            raise self._too_large(body, " as JSON")
        return body

    def _reason(self, payload: Any, error: Exception) -> str | None:
        """Why *payload* can't be encoded; ``None``: it is not at fault."""
        if isinstance(payload, _BYTES):
            return (
                f"payload is of type {type_name(payload)}: say what it is by"
                " content_type, for example 'application/octet-stream'"
            )
        return explain(payload, self._convert, error)

    def _too_large(self, body: bytes, form: str) -> EncodingError:
        return EncodingError(
            f"payload takes {len(body)} bytes{form}, but"
            f" EVENTCOLLECTOR_MAX_EVENT_BYTES is {self._max_event_bytes} bytes: send a"
            " reference to the data, or raise EVENTCOLLECTOR_MAX_EVENT_BYTES"
        )


def _check_is_json(properties: Properties, payload: Any) -> None:
    """Check that *properties* don't call the JSON of *payload* something else."""
    named = properties.content_type
    if named is not None and not is_json(named):
        raise EncodingError(
            "content_type is not JSON, but the payload is of type"
            f" {type_name(payload)}, which is sent as JSON: pass the payload as"
            " bytes, or leave content_type out"
        )
    if not is_in_utf8(properties):
        raise EncodingError(
            "content_encoding is not UTF-8, but the payload is of type"
            f" {type_name(payload)}, which is sent as JSON in UTF-8: encode or compress"
            " it yourself, and pass bytes with a content_type, or leave"
            " content_encoding out"
        )


def _json_encoder(convert: Default) -> Callable[[Any], str]:
    encoder = json.JSONEncoder(
        ensure_ascii=False,
        allow_nan=False,
        # A value that contains itself ends in a RecursionError instead.
        check_circular=False,
        separators=(",", ":"),
        default=convert,
    )
    make = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    if make is None:  # not in C, as in PyPy
        return encoder.encode
    # JSONEncoder makes such an object for each payload, which takes as long as encoding
    # a small one.
    chunks = make(
        None,
        encoder.default,
        json.encoder.encode_basestring,
        None,
        encoder.key_separator,
        encoder.item_separator,
        encoder.sort_keys,
        encoder.skipkeys,
        encoder.allow_nan,
    )
    return lambda payload: "".join(chunks(payload, 0))


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
    if isinstance(value, Decimal):
        raise TypeError("a number that is not finite is not JSON")
    if default is None:
        return by_protocol(value, partial(_convert, default=default))
    try:
        # The app's own choice comes first.
        return default(value)
    except TypeError:
        # It may have a bug. If nothing else converts the value, a traceback shows it.
        return by_protocol(value, partial(_convert, default=default))
