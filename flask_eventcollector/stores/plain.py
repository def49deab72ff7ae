"""Turns headers and times into what a row can hold, and back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

from ..messages.amqp_fields import NO_HEADERS

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def time_of(microseconds: int) -> datetime:
    """The time, in UTC, that is so many *microseconds* after the beginning of 1970."""
    return _EPOCH + microseconds * _MICROSECOND


def headers_as_text(headers: Mapping[str, Any]) -> str:
    """*headers* as JSON, in ASCII."""
    return json.dumps(tagged(headers)) if headers else _NO_HEADERS


def headers_from_text(text: str) -> Mapping[str, Any]:
    """The headers that :func:`headers_as_text` has turned into *text*."""
    if text == _NO_HEADERS:
        return NO_HEADERS
    return MappingProxyType(untagged(json.loads(text)))


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
