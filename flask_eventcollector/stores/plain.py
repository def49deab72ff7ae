"""Turns headers, properties and times into what a row can hold, and back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

from ..events import NO_PROPERTIES, Event, Properties
from ..messages.amqp_fields import NO_HEADERS

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


#: Is in the text of :func:`about_as_text` if the event has a delay.
DELAY_IN_TEXT = '"delay": '


def time_of(microseconds: int) -> datetime:
    """The time, in UTC, that is so many *microseconds* after the beginning of 1970."""
    return _EPOCH + microseconds * _MICROSECOND


def about_as_text(event: Event) -> str:
    """The headers and properties of *event* as JSON, in ASCII."""
    if event.is_plain:
        return json.dumps(tagged(event.headers)) if event.headers else _NO_HEADERS
    properties = event.properties.as_dict()
    return json.dumps({**tagged(event.headers), "properties": properties})


def about_from_text(text: str) -> tuple[Mapping[str, Any], Properties]:
    """What :func:`about_as_text` has turned into *text*.

    :raises ValueError: it is something else. So do KeyError, TypeError and others.
    """
    if text == _NO_HEADERS:
        return NO_HEADERS, NO_PROPERTIES
    about = json.loads(text)
    properties = Properties(**about.pop("properties", {}))
    headers = untagged(about)
    return MappingProxyType(headers) if headers else NO_HEADERS, properties


# AMQP headers support more types than JSON. A type that JSON lacks becomes an object
# whose only member names the type. So does a table, which avoids ambiguity.


def tagged(value: Any) -> Any:
    """*value* of a header, in the types of JSON."""
    if isinstance(value, Mapping):
        return {"table": {key: tagged(item) for key, item in value.items()}}
    if isinstance(value, list):
        return [tagged(item) for item in value]
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    return value


def untagged(value: Any) -> Any:
    """The value that :func:`tagged` has turned into *value*."""
    if isinstance(value, list):
        return [untagged(item) for item in value]
    if isinstance(value, dict):
        ((tag, inner),) = value.items()
        return _UNTAG[tag](inner)
    return value


_UNTAG: Mapping[str, Callable[[Any], Any]] = {
    "table": lambda table: {key: untagged(item) for key, item in table.items()},
    "bytes": base64.b64decode,
    # Of earlier versions, whose headers were not always text.
    "decimal": str,
    "time": lambda seconds: (_EPOCH + timedelta(seconds=seconds)).isoformat(),
}

_NO_HEADERS = json.dumps(tagged({}))
