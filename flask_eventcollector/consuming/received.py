"""What the properties of a received message say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any, TypeVar

from ..messages.amqp_fields import (
    BATCH_ID,
    BATCH_INDEX,
    BATCH_SIZE,
    POSSIBLE_DUPLICATE,
)
from ..messages.cloudevents import split_headers
from ..messages.rfc3339 import time_from_text
from ..messages.wording import type_name

T = TypeVar("T")

_READ = ("message_id", "timestamp", "headers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A message as its consumer sees it; :func:`received` makes it.

    What a message does not say is ``None``, or empty. So is what another publisher has
    said in another type. The ``repr`` omits the headers and the attributes, since it
    may end up in a log.
    """

    #: The AMQP ``message_id``, the same for every copy of the event.
    id: str
    #: When the event was enqueued, in UTC (timezone-aware), in whole seconds, since
    #: AMQP's ``timestamp`` has no fractions. ``None``: the message does not say so.
    enqueued_at: datetime | None
    #: Whether the message may be a second copy (``x-possible-duplicate``). A copy need
    #: not be marked, for example if the broker redelivers it.
    possible_duplicate: bool
    #: The kind of event.
    type: str | None
    #: What the event belongs to.
    correlation_id: str | None
    #: The queue for an answer.
    reply_to: str | None
    #: From 0 to 255, the highest first.
    priority: int | None
    #: The media type of the body.
    content_type: str | None
    #: How the body is compressed, or the character set of its text.
    content_encoding: str | None
    #: Seconds for which the message was still worth something when it was sent (its
    #: ``expiration``).
    expires_in: float | None
    #: The same for all messages that were published together (``x-batch-id``), if
    #: ``EVENTCOLLECTOR_BATCH_HEADERS`` is set; as are the next two.
    batch_id: str | None
    #: The place of the message among them, from 0.
    batch_index: int | None
    #: How many they are.
    batch_size: int | None
    #: Those of a CloudEvent in binary mode, by name, without the prefix, which may be
    #: ``ce-``, ``cloudEvents_`` or ``cloudEvents:``; empty if the message is none.
    #: ``time`` is a :class:`~datetime.datetime`, the others are as they were sent, as a
    #: rule as text.
    attributes: Mapping[str, Any] = field(repr=False)
    #: The headers that no other attribute tells.
    headers: Mapping[str, Any] = field(repr=False)

    @property
    def age(self) -> float | None:
        """Seconds since the event was enqueued, at least 0, by this machine's clock.

        ``None``: the message does not say when.
        """
        if self.enqueued_at is None:
            return None
        return max(0.0, time.time() - self.enqueued_at.timestamp())


def received(properties: Any) -> Received:
    """Read the properties of a message. Does not block, and needs no app.

    :param properties: pika's ``BasicProperties``, or another object with the attributes
        ``message_id``, ``timestamp`` and ``headers``, such as a message of aio-pika.
    :returns: a :class:`Received`.
    :raises TypeError: *properties* has none of these, or one of the wrong type.
    :raises ValueError: the message has no ``message_id``. Its copies can't be
        recognised, so reject it, or let its publisher set one. This library always
        does.
    """
    for name in _READ:
        if not hasattr(properties, name):
            raise TypeError(
                f"{type_name(properties)} has no {name}: pass the properties of the"
                " message, such as pika's BasicProperties"
            )
    attributes, headers = split_headers(_headers(properties.headers))
    return Received(
        id=_id(properties.message_id),
        enqueued_at=_time(properties.timestamp),
        possible_duplicate=bool(headers.pop(POSSIBLE_DUPLICATE, False)),
        **{name: _text(getattr(properties, name, None)) for name in _TEXTS},
        priority=_count(getattr(properties, "priority", None)),
        expires_in=_expires_in(getattr(properties, "expiration", None)),
        batch_id=_taken(headers, BATCH_ID, _text),
        batch_index=_taken(headers, BATCH_INDEX, _count),
        batch_size=_taken(headers, BATCH_SIZE, _count),
        attributes=_attributes(attributes, properties),
        headers=MappingProxyType(headers),
    )


_TEXTS = ("type", "correlation_id", "reply_to", "content_type", "content_encoding")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return value


def _taken(
    headers: dict[str, Any], name: str, read: Callable[[object], T | None]
) -> T | None:
    """What the header *name* says; another publisher's, of another type, remains."""
    value = read(headers.get(name))
    if value is not None:
        del headers[name]
    return value


def _expires_in(expiration: object) -> float | None:
    # aio-pika has seconds.
    if isinstance(expiration, (int, float)):
        return float(expiration)
    if isinstance(expiration, str) and expiration.isdecimal():
        return int(expiration) / 1000
    return None


def _attributes(attributes: dict[str, Any], properties: Any) -> Mapping[str, Any]:
    moment = attributes.get("time")
    if isinstance(moment, str):
        attributes["time"] = time_from_text(moment) or moment
    elif isinstance(moment, datetime):
        # Of a publisher with AMQP 1.0.
        attributes["time"] = _time(moment)
    content_type = _text(getattr(properties, "content_type", None))
    if attributes and content_type is not None:
        attributes["datacontenttype"] = content_type
    return MappingProxyType(attributes)


def _id(id: object) -> str:
    if id is None or id == "":
        raise ValueError(
            "the message has no message_id, so its copies can't be recognised: reject"
            " it, or let its publisher set one"
        )
    if not isinstance(id, str):
        raise TypeError(f"message_id is of type {type_name(id)}: it must be a str")
    return id


def _headers(headers: object) -> dict[str, Any]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers are of type {type_name(headers)}: pass a dict")
    return dict(headers)


def _time(timestamp: object) -> datetime | None:
    if timestamp is None:
        return None
    if isinstance(timestamp, datetime):
        # aio-pika has a naive time on some versions; AMQP's is in UTC.
        is_naive = timestamp.tzinfo is None
        return timestamp.replace(tzinfo=timezone.utc) if is_naive else timestamp
    if isinstance(timestamp, bool) or not isinstance(timestamp, (int, float)):
        kind = type_name(timestamp)
        raise TypeError(f"timestamp is of type {kind}: pass seconds since 1970")
    try:
        return datetime.fromtimestamp(timestamp, timezone.utc)
    except (OverflowError, OSError, ValueError):
        # Some publishers send milliseconds, which lead beyond the year 9999. The
        # message is not worse for it.
        return None
