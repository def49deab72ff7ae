"""Checks what an event says about itself besides payload, target and headers."""

from __future__ import annotations

import difflib
import math
import uuid
from collections.abc import Callable, Hashable, Mapping
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypedDict

from ..events import Properties
from .amqp_fields import check_name
from .wording import type_name


class EventOptions(TypedDict, total=False):
    """The further keyword arguments of ``enqueue_event``.

    None is required. A value of ``None`` is the same as none. See
    :meth:`.EventCollector.enqueue_event`, and :class:`.Properties`.
    """

    content_type: str | None
    content_encoding: str | None
    type: str | None
    correlation_id: str | uuid.UUID | None
    reply_to: str | uuid.UUID | None
    priority: int | None
    expires_in: float | timedelta | None
    delay: float | timedelta | None
    key: Hashable | None
    keep: Literal["first", "last"]
    attributes: Mapping[str, Any] | None


#: Only the connection that consumes from it may name it: on any other, RabbitMQ closes
#: the channel. https://www.rabbitmq.com/docs/direct-reply-to#limitations
_DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"


#: The option that is no property.
ATTRIBUTES = "attributes"


def read_options(options: Mapping[str, Any]) -> Properties:
    """The properties that *options* name.

    :raises TypeError: one of them is unknown, or its value is of the wrong type.
    :raises ValueError: a value is invalid in AMQP.
    """
    read = {
        name: _READERS[name](value, name) if name in _READERS else _unknown(name)
        for name, value in options.items()
        if value is not None or name not in _READERS
    }
    read.pop(ATTRIBUTES, None)
    properties = Properties(**read)
    if (properties.expires_in or math.inf) <= (properties.delay or 0):
        raise ValueError(
            "expires_in is not more than delay, so the event would never be sent: both"
            " count from now"
        )
    if "keep" in read and properties.key is None:
        raise ValueError("keep has no effect without key: pass a key, too")
    return properties


def size_of(properties: Properties) -> int:
    """About how many bytes *properties* take in a message."""
    values = properties.as_dict().values()
    return sum(len(str(value).encode()) + 1 for value in values)


def _unknown(name: object) -> NoReturn:
    close = difflib.get_close_matches(str(name), _READERS, n=1)
    cure = f"did you mean {close[0]}?" if close else f"there are {', '.join(_READERS)}"
    raise TypeError(f"enqueue_event() has no argument {name!r}: {cure}")


def check_text(value: object, name: str) -> str:
    """Return *value* if it is a text of 1 to 255 bytes; *name* is what errors call it.

    :raises TypeError: it is neither a str nor a UUID.
    :raises ValueError: it is empty, too long, or not Unicode.
    """
    if isinstance(value, uuid.UUID):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"{name} is of type {type_name(value)}: pass a str")
    if not value:
        raise ValueError(f"{name} is empty: pass a str, or leave it out")
    return check_name(value, name)


def _reply_to(value: object, name: str) -> str:
    queue = check_text(value, name)
    if queue == _DIRECT_REPLY_TO:
        raise ValueError(
            f"{name} is {_DIRECT_REPLY_TO!r}, which only the connection that waits for"
            " the answer can use: pass the name of a queue"
        )
    return queue


def _priority(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is of type {type_name(value)}: pass an int, 0 to 255")
    if not 0 <= value <= 255:
        raise ValueError(
            f"{name} is out of range: pass an int from 0 to 255, and no more than the"
            " queue's x-max-priority"
        )
    return int(value)


#: RabbitMQ's limit, in milliseconds, for the expiration of a message: 49 days.
_MOST_MS = 2**32 - 1
#: Seconds, about ten years.
_LONGEST_DELAY = 3650 * 86_400


def _seconds(value: object, name: str) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} is of type {type_name(value)}: pass seconds, or a timedelta"
        )
    try:
        return float(value)
    except OverflowError:  # an int of more than 300 digits
        return math.inf


def _expires_in(value: object, name: str) -> float:
    seconds = _seconds(value, name)
    if not 0.001 <= seconds <= _MOST_MS / 1000:
        raise ValueError(
            f"{name} is out of range: pass 1 ms to {_MOST_MS // 86_400_000} days"
        )
    return seconds


def _delay(value: object, name: str) -> float | None:
    seconds = _seconds(value, name)
    if not 0 <= seconds <= _LONGEST_DELAY:
        raise ValueError(
            f"{name} is out of range: pass 0 to {_LONGEST_DELAY // 86_400} days"
        )
    return seconds or None


def _key(value: object, name: str) -> Hashable:
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{name} is of type {type_name(value)}, which can't be compared by hash:"
            " pass a str, an int, or a tuple of these"
        ) from None
    return value


def _keep(value: object, name: str) -> str:
    if value not in ("first", "last"):
        raise ValueError(f"{name} is neither 'first' nor 'last': pass one of these")
    return "first" if value == "first" else "last"


_READERS: Mapping[str, Callable[[object, str], Any]] = {
    "content_type": check_text,
    "content_encoding": check_text,
    "type": check_text,
    "correlation_id": check_text,
    "reply_to": _reply_to,
    "priority": _priority,
    "expires_in": _expires_in,
    "delay": _delay,
    "key": _key,
    "keep": _keep,
    # They are read once the event is known.
    ATTRIBUTES: lambda value, _: value,
}
