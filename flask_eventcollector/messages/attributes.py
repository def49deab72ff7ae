"""Checks the attributes that the caller gives to a CloudEvent.

Their names and types: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#context-attributes
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from .amqp_fields import check_table
from .rfc3339 import time_as_text
from .unicode_text import well_formed
from .uris import is_uri
from .wording import REPLACE_CURE, quote_key, type_name

#: An attribute as JSON has it.
Value = str | int | bool

#: In binary mode, in bytes of UTF-8. A longer text is no longer text in AMQP 1.0, into
#: which RabbitMQ converts messages: https://www.rabbitmq.com/docs/conversions.
MAX_SHORT_BYTES = 255
#: Of all together, with their names. They share a frame with the headers.
MAX_ATTRIBUTES_BYTES = 32 * 1024

_NAME = re.compile("[a-z0-9]{1,20}")

#: What the library sets, with the way to change it.
RESERVED: Mapping[str, str] = {
    "data": "pass it as the payload",
    "data_base64": "pass it as the payload, with a content_type",
    "datacontenttype": "pass it as content_type",
    "id": "it is the id of the event",
    "source": "it is EVENTCOLLECTOR_CLOUDEVENTS_SOURCE",
    "specversion": "it is 1.0",
    "time": "it is the time when the event is enqueued",
    "type": "pass it as type",
}

_NONCHARACTERS = "".join(
    chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17)
)
_SURROGATES = "\ud800-\udfff"
_REFUSED = re.compile(f"[\x00-\x1f\x7f-\x9f{_SURROGATES}\ufdd0-\ufdef{_NONCHARACTERS}]")


def read_attributes(
    attributes: object, *, replace: bool, is_short: bool
) -> dict[str, Value]:
    """The caller's *attributes* as JSON has them, without those that are ``None``.

    :param replace: whether lone surrogates become U+FFFD.
    :param is_short: whether each value may have no more than 255 bytes.
    :raises TypeError: a value is of a type that CloudEvents do not have.
    :raises ValueError: a name or a value is invalid.
    """
    if attributes is None:
        return {}
    read: dict[str, Value] = {}
    for name, value in check_table(attributes, "attributes").items():
        _check_name(name)
        if value is not None:
            what = f"attributes[{quote_key(name)}]"
            read[name] = _READERS.get(name, _value)(value, what, replace)
            if is_short:
                _check_length(canonical(read[name]), what)
    _check_size(read)
    return read


def canonical(value: Value) -> str:
    """The one text for *value*, which any binding can carry."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_short_text(value: object) -> bool:
    """Whether *value* is a text that an attribute may have, in any content mode."""
    if not isinstance(value, str) or _REFUSED.search(value):
        return False
    return 0 < len(value.encode()) <= MAX_SHORT_BYTES


def check_string(text: str, what: str, *, replace: bool = False) -> str:
    """Return *text* if CloudEvents allow each of its characters.

    :param what: what errors call it.
    :param replace: whether lone surrogates become U+FFFD.
    :raises ValueError: they don't, or it is empty.
    """
    if not text:
        raise ValueError(f"{what} is empty: pass a str, or leave it out")
    text = well_formed(text) if replace else str.__str__(text)
    found = _REFUSED.search(text)
    if found is None:
        return text
    if re.match(f"[{_SURROGATES}]", found[0]):
        raise ValueError(
            f"{what} has a lone surrogate, which UTF-8 can't encode: {REPLACE_CURE}"
        )
    raise ValueError(
        f"{what} has the character U+{ord(found[0]):04X}, which CloudEvents do not"
        " allow: remove it"
    )


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a key of attributes is of type {type_name(name)}: pass a str")
    if name in RESERVED:
        raise ValueError(f"attributes[{quote_key(name)}] is reserved: {RESERVED[name]}")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"attributes[{quote_key(name)}] is not the name of an attribute: it has 1"
            " to 20 letters and digits, of a-z and 0-9"
        )


def _check_length(text: str, what: str) -> None:
    size = len(text.encode())
    if size > MAX_SHORT_BYTES:
        raise ValueError(
            f"{what} takes {size} bytes, but {MAX_SHORT_BYTES} are the most in a"
            " header, since longer text arrives as bytes in AMQP 1.0: shorten it, or"
            " set EVENTCOLLECTOR_CLOUDEVENTS to 'structured'"
        )


def _check_size(attributes: Mapping[str, Value]) -> None:
    size = sum(len(k) + len(canonical(v).encode()) for k, v in attributes.items())
    if size > MAX_ATTRIBUTES_BYTES:
        raise ValueError(
            f"attributes take {size} bytes, but {MAX_ATTRIBUTES_BYTES} are the most:"
            " move the data into the payload"
        )


# Readers: each returns a value as JSON has it.


def _value(value: object, what: str, replace: bool) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _integer(value, what)
    if isinstance(value, datetime):
        return _timestamp(value, what)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    return _string(value, what, replace)


def _integer(value: int, what: str) -> int:
    if not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"{what} is an int of more than 32 bits: pass str(value)")
    return int(value)


def _timestamp(value: datetime, what: str) -> str:
    if value.utcoffset() is None:
        raise ValueError(
            f"{what} has no time zone: pass for example datetime.now(timezone.utc)"
        )
    try:
        return time_as_text(value)
    except OverflowError:
        raise ValueError(
            f"{what} is in UTC not in the years 1 to 9999: pass another time, or leave"
            " it out"
        ) from None


def _string(value: object, what: str, replace: bool) -> str:
    if isinstance(value, uuid.UUID):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(
            f"{what} is of type {type_name(value)}, which CloudEvents do not have: pass"
            " a str"
        )
    return check_string(value, what, replace=replace)


def _uri(value: object, what: str, replace: bool) -> str:
    text = _string(value, what, replace)
    if not is_uri(text):
        raise ValueError(
            f"{what} is not a URI: pass one with a scheme, for example"
            " 'https://example.com/schemas/order.json'"
        )
    return text


_READERS: Mapping[str, Callable[[Any, str, bool], Value]] = {
    "subject": _string,
    "dataschema": _uri,
}
