"""Encodes AMQP's field tables, as RabbitMQ reads them.

See https://www.rabbitmq.com/amqp-0-9-1-errata#section_3. pika takes three times as long
for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ...messages.amqp_fields import MAX_NAME_BYTES, int_letter

_OCTETS = [bytes((number,)) for number in range(256)]
_pack_size = struct.Struct(">I").pack
#: By the letter of the type.
_PACK_INT: Mapping[bytes, Callable[[int], bytes]] = {
    letter: struct.Struct(size).pack
    for letter, size in ((b"s", ">h"), (b"I", ">i"), (b"l", ">q"))
}


def encoded_table(table: Mapping[str, Any]) -> bytes:
    """The bytes of *table*, as :func:`.copy_table` makes it, with their size.

    :raises TypeError: AMQP does not have a value's type.
    :raises ValueError: a key takes more than 255 bytes.
    """
    fields = b"".join([_key(key) + _field(value) for key, value in table.items()])
    return _pack_size(len(fields)) + fields


def short_string(text: str) -> bytes:
    """The bytes of *text*, at most 255, with their number.

    :raises ValueError: there are more.
    """
    data = text.encode()
    if len(data) > MAX_NAME_BYTES:
        raise ValueError(f"a text takes {len(data)} bytes, but AMQP allows 255")
    return _OCTETS[len(data)] + data


#: Keys repeat.
_key = lru_cache(maxsize=1000)(short_string)


def _field(value: Any) -> bytes:
    encode = _FIELDS.get(type(value))
    if encode is None:
        raise TypeError(f"AMQP does not have the type {type(value).__name__}")
    return encode(value)


def _string(value: str) -> bytes:
    data = value.encode()
    return b"S" + _pack_size(len(data)) + data


def _bytes(value: bytes) -> bytes:
    return b"x" + _pack_size(len(value)) + value


def _bool(value: bool) -> bytes:
    return b"t\1" if value else b"t\0"


def _int(value: int) -> bytes:
    letter = int_letter(value)
    return letter + _PACK_INT[letter](value)


def _none(_: None) -> bytes:
    return b"V"


def _list(value: list[Any]) -> bytes:
    items = b"".join([_field(item) for item in value])
    return b"A" + _pack_size(len(items)) + items


def _dict(value: dict[str, Any]) -> bytes:
    return b"F" + encoded_table(value)


_FIELDS: Mapping[type, Callable[[Any], bytes]] = {
    str: _string,
    bytes: _bytes,
    bool: _bool,
    int: _int,
    type(None): _none,
    list: _list,
    dict: _dict,
}
