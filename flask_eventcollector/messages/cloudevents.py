"""Makes CloudEvents of events, and reads the attributes of such messages.

Version 1.0: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md. There
is no official binding to AMQP 0-9-1; this is Knative's for RabbitMQ:
https://github.com/knative-extensions/eventing-rabbitmq/blob/main/cloudevents-protocol-spec/spec.md
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NoReturn

from ..events import (
    CLOUDEVENT_TYPE,
    Event,
    Properties,
    Word,
    decoded_body,
    is_in_utf8,
    is_json,
    is_structured,
    make_event,
)
from .amqp_fields import EMPTY_TABLE_BYTES
from .attributes import (
    Value,
    canonical,
    check_string,
    is_short_text,
    read_attributes,
)
from .options import size_of
from .rfc3339 import time_as_text
from .wording import quote_key

#: The content type of messages in structured mode.
STRUCTURED_TYPE = f"{CLOUDEVENT_TYPE}+json; charset=utf-8"

#: What may mark the attributes among the headers, in binary mode: Knative's prefix, and
#: those of the binding to AMQP 1.0.
PREFIXES = ("ce-", "cloudEvents_", "cloudEvents:")
_LOWER_PREFIXES = tuple(prefix.lower() for prefix in PREFIXES)

#: Without these, a message is no CloudEvent.
_REQUIRED = {"specversion", "id", "source", "type"}

#: The extension Distributed Tracing: the context in which an event was enqueued. It
#: stays the same, while middleware may change the headers. The first is required.
#: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/distributed-tracing.md
_TRACEPARENT, _TRACESTATE = "traceparent", "tracestate"

#: What a header takes besides its name and its text: two lengths and a type, in bytes.
_HEADER_BYTES = 6


class ContentMode(Word):
    """Where a message has the attributes of its CloudEvent."""

    #: In the body, around the data.
    STRUCTURED = "structured"
    #: In the headers, beside the data.
    BINARY = "binary"


class CloudEvents:
    """Makes CloudEvents of events, by the settings of one app.

    :param mode: where the attributes go.
    :param source: the attribute ``source``.
    :param prefix: marks the attributes in binary mode.
    :param replace_invalid_text: whether lone surrogates in attributes become U+FFFD;
        otherwise they are an error.
    """

    def __init__(
        self,
        mode: ContentMode,
        source: str,
        prefix: str = PREFIXES[0],
        *,
        replace_invalid_text: bool = False,
    ) -> None:
        self._is_binary = mode is ContentMode.BINARY
        self._source = source
        self._prefix = prefix
        self._replace = replace_invalid_text

    def wrap(self, event: Event, attributes: object, *, is_checked: bool) -> Event:
        """*event* with its attributes in its headers, or around its body.

        :param event: has a type. Its trace context is in its headers, if it has one.
        :param attributes: the caller's own.
        :param is_checked: whether a body whose type is JSON is known to be JSON.
        :raises TypeError: an attribute has the wrong type.
        :raises ValueError: an attribute or a header is invalid, or the content can't be
            that of a CloudEvent.
        """
        if is_structured(event):
            raise ValueError(
                "content_type is that of a CloudEvent, which"
                " EVENTCOLLECTOR_CLOUDEVENTS makes of each event: pass the data alone,"
                " and its own content_type"
            )
        own = read_attributes(
            attributes, replace=self._replace, is_short=self._is_binary
        )
        about = self._required(event) | _trace_of(event, own) | own
        if self._is_binary:
            return self._in_headers(event, about)
        return _in_body(event, about, is_checked=is_checked)

    def _required(self, event: Event) -> dict[str, Value]:
        return {
            "specversion": "1.0",
            "id": event.id,
            "source": self._source,
            "type": _type_of(event),
            "time": time_as_text(event.enqueued_at),
        }

    def _in_headers(self, event: Event, about: Mapping[str, Value]) -> Event:
        for name in event.headers:
            if name.lower().startswith(_LOWER_PREFIXES):
                _refuse_header(name)
        added = {f"{self._prefix}{k}": canonical(v) for k, v in about.items()}
        size = sum(len(k) + len(v.encode()) + _HEADER_BYTES for k, v in added.items())
        if not event.headers:
            size += EMPTY_TABLE_BYTES
        headers = MappingProxyType({**event.headers, **added})
        return _changed(event, event.body, headers, size, event.properties)


def _trace_of(event: Event, own: Mapping[str, Value]) -> dict[str, Value]:
    """The trace context in the headers, unless the caller's *own* attributes name one.

    That is the one of a CloudEvent which the caller passes on.
    """
    if not event.headers or not own.keys().isdisjoint((_TRACEPARENT, _TRACESTATE)):
        return {}
    headers = {name.lower(): value for name, value in event.headers.items()}
    if not is_short_text(headers.get(_TRACEPARENT)):
        return {}
    named = (_TRACEPARENT, _TRACESTATE)
    return {name: headers[name] for name in named if is_short_text(headers.get(name))}


def _type_of(event: Event) -> str:
    kind = event.properties.type or ""
    is_queue = kind == event.target_queue
    what = "target_queue, which is the type," if is_queue else "type"
    return check_string(kind, what)


def _refuse_header(name: str) -> NoReturn:
    raise ValueError(
        f"headers[{quote_key(name)}] is reserved: it looks like an attribute of the"
        " CloudEvent, so pass it in attributes, or choose another name"
    )


def _in_body(event: Event, about: Mapping[str, Value], *, is_checked: bool) -> Event:
    if not is_in_utf8(event.properties):
        raise ValueError(
            "content_encoding has no place in a structured CloudEvent: leave the"
            " payload as it is, or set EVENTCOLLECTOR_CLOUDEVENTS to 'binary'"
        )
    start = _as_json({**about, "datacontenttype": event.content_type})
    body = b"%b,%b}" % (start[:-1], _data(event, is_checked=is_checked))
    properties = replace(event.properties, content_type=STRUCTURED_TYPE)
    size = len(body) + size_of(properties) - len(event.body) - size_of(event.properties)
    return _changed(event, body, event.headers, size, properties)


def _as_json(about: Mapping[str, Value]) -> bytes:
    return json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()


def _data(event: Event, *, is_checked: bool) -> bytes:
    """The member of the JSON object that has the data."""
    is_inline = is_json(event.content_type) and (is_checked or _is_json(event.body))
    if is_inline:
        return b'"data":' + event.body
    return b'"data_base64":"%b"' % base64.b64encode(event.body)


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _changed(
    event: Event,
    body: bytes,
    headers: Mapping[str, Any],
    size: int,
    properties: Properties,
) -> Event:
    """*event* with another content, which takes *size* bytes more."""
    size += event.size
    about = (body, headers, event.microseconds, size, properties)
    return make_event(event.raw_id, event.target, *about)


# What a message says.


def split_headers(headers: Mapping[Any, Any]) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The attributes of a CloudEvent in binary mode, and all other headers.

    There are no attributes unless those that each CloudEvent needs are there, with one
    prefix.
    """
    for prefix in _LOWER_PREFIXES:
        names = {
            key: key.lower()[len(prefix) :]
            for key in headers
            if isinstance(key, str) and key.lower().startswith(prefix)
        }
        if set(names.values()) >= _REQUIRED:
            about = {name: headers[key] for key, name in names.items()}
            return about, {k: v for k, v in headers.items() if k not in names}
    return {}, dict(headers)


def attributes_of(event: Event) -> dict[str, str]:
    """The attributes of *event*, each as its canonical text; none: no CloudEvent."""
    about, _ = split_headers(event.headers)
    if about:
        about["datacontenttype"] = event.content_type
    elif is_structured(event) and isinstance(body := decoded_body(event), dict):
        about = {k: v for k, v in body.items() if k not in ("data", "data_base64")}
    return {name: canonical(value) for name, value in about.items()}
