"""What the properties of a received message say."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from ..messages.amqp_fields import POSSIBLE_DUPLICATE
from ..messages.wording import type_name

_READ = ("message_id", "timestamp", "headers")


@dataclass(frozen=True, slots=True)
class Received:
    """A message as its consumer sees it; :func:`received` makes it.

    The ``repr`` omits the headers, since it may end up in a log.
    """

    #: The AMQP ``message_id``, the same for every copy of the event.
    id: str
    #: When the event was enqueued, in UTC (timezone-aware), in whole seconds, since
    #: AMQP's ``timestamp`` has no fractions. ``None``: the message does not say so.
    enqueued_at: datetime | None
    #: Whether the message may be a second copy (``x-possible-duplicate``). A copy need
    #: not be marked, for example if the broker redelivers it.
    possible_duplicate: bool
    #: The headers, without this library's own.
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
    headers = _headers(properties.headers)
    is_marked = bool(headers.pop(POSSIBLE_DUPLICATE, False))
    return Received(
        _id(properties.message_id),
        _time(properties.timestamp),
        is_marked,
        MappingProxyType(headers),
    )


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
