"""Checks names and header tables against AMQP's limits."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from .as_text import as_text
from .unicode_text import well_formed
from .wording import REPLACE_CURE, SURROGATE_CURE, Cures, cure_for, quote_key, type_name

#: Where a value is: a name, then keys and indices. Formatted only for an error.
_Path = tuple[object, ...]

#: AMQP's short string: names and header keys, in bytes of UTF-8. It may not contain
#: zero octets; see https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, 4.2.5.3.
MAX_NAME_BYTES = 255
_NUL = "\0"
#: In bytes. The table must fit into one frame (128 KiB) with the other properties;
#: otherwise the broker closes the connection.
MAX_TABLE_BYTES = 64 * 1024
#: The length that a table begins with, in bytes.
EMPTY_TABLE_BYTES = 4
#: Stops the recursion for a table that contains itself.
MAX_TABLE_DEPTH = 32
#: Marks a possible second copy of an event; reserved for the library.
POSSIBLE_DUPLICATE = "x-possible-duplicate"

#: Tell which events were handed over together; reserved if a setting asks for them.
BATCH_ID, BATCH_INDEX, BATCH_SIZE = "x-batch-id", "x-batch-index", "x-batch-size"
#: What these headers take in a message, in bytes.
BATCH_HEADERS_BYTES = 93

NO_HEADERS: Mapping[str, Any] = MappingProxyType({})

RESERVED: Mapping[str, str] = {
    # https://www.rabbitmq.com/docs/sender-selected
    "CC": "RabbitMQ reads more routing keys from it; enqueue one event for each queue",
    "BCC": "RabbitMQ reads more routing keys from it; enqueue one event for each queue",
    POSSIBLE_DUPLICATE: "the library sets it on second copies; choose another name",
}

RESERVED_IN_BATCHES: Mapping[str, str] = {
    **RESERVED,
    **dict.fromkeys(
        (BATCH_ID, BATCH_INDEX, BATCH_SIZE),
        "EVENTCOLLECTOR_BATCH_HEADERS sets it; choose another name",
    ),
}

_HEADER_CURES: Cures = (
    ((bytearray, memoryview), "send bytes(value)"),
    ((Decimal,), "it is not a finite number, send None"),
    ((float,), "send an int, or a str"),
    ((set, frozenset), "send a list, e.g. sorted(value)"),
    ((timedelta,), "send value.total_seconds() as a string"),
    ((enum.Enum,), "send value.value"),
)


#: Where a setting can replace lone surrogates; never in names.
_REPLACED = ("headers", "a key of headers")


def check_name(name: object, what: str, *, allow_empty: bool = False) -> str:
    """Return ``name`` as a plain str if it is valid as an AMQP short string.

    :param what: what errors call it.
    :raises TypeError: it isn't a str.
    :raises ValueError: it is empty, over 255 bytes, not Unicode, or has U+0000.
    """
    if (
        type(name) is str
        and name.isascii()
        and 0 < len(name) <= MAX_NAME_BYTES
        and _NUL not in name
    ):
        return name
    if isinstance(name, str) and not name and not allow_empty:
        raise ValueError(f"{what} is empty: pass the name of a queue")
    return _short_string(name, (what,))


def fitting_name(text: str) -> str:
    """*text* as a short string: what AMQP does not allow is replaced, or cut off.

    For the name of an app, which may be that of a file in another character set.
    """
    allowed = well_formed(text).replace(_NUL, "\N{REPLACEMENT CHARACTER}")
    return allowed.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def _short_string(text: object, path: _Path) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{_format(path)} is of type {type_name(text)}: pass a str")
    size = len(_utf8(text, path))
    if size > MAX_NAME_BYTES:
        raise ValueError(
            f"{_format(path)} takes {size} bytes in UTF-8, but AMQP allows"
            f" {MAX_NAME_BYTES}: shorten it"
        )
    if _NUL in text:
        raise ValueError(
            f"{_format(path)} has the character U+0000, which AMQP does not allow in"
            " names: remove it"
        )
    return str.__str__(text)


def _utf8(text: str, path: _Path) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        cure = REPLACE_CURE if path[0] in _REPLACED else SURROGATE_CURE
        raise ValueError(
            f"{_format(path)} has a lone surrogate, which UTF-8 can't encode: {cure}"
        ) from error


def copy_headers(
    headers: Mapping[str, Any] | None,
    *,
    replace: bool = False,
    reserved: Mapping[str, str] = RESERVED,
) -> tuple[Mapping[str, Any], int]:
    if headers is None:
        return NO_HEADERS, 0
    copy, size = copy_table(headers, "headers", replace=replace)
    for key in copy:
        if key in reserved:
            raise ValueError(f"headers[{quote_key(key)}] is reserved: {reserved[key]}")
    return MappingProxyType(copy), size if copy else 0


def copy_table(
    table: object, what: str, *, replace: bool = False
) -> tuple[dict[str, Any], int]:
    """Copy *table* as an AMQP field table, as a consumer will see it.

    :param what: what errors call it.
    :param replace: whether lone surrogates in its text become U+FFFD.
    :returns: the copy, and its encoded size in bytes.
    :raises TypeError: AMQP does not have a value's type.
    :raises ValueError: a value is out of range, or the table is too large.
    """
    copier = _TableCopier(what, replace)
    return copier.table(check_table(table, what), (what,)), copier.size


def check_table(table: object, what: str) -> Mapping[Any, Any]:
    """Return *table* if it is a mapping; *what* is what errors call it.

    :raises TypeError: it isn't.
    """
    if not isinstance(table, Mapping):
        raise TypeError(f"{what} is of type {type_name(table)}: pass a dict")
    return table


class _TableCopier:
    """Copies a table while counting its size as pika's ``encode_table`` encodes it."""

    def __init__(self, what: str, replace: bool) -> None:
        self.what = what
        self.replace = replace
        self.size = 0

    def count(self, size: int) -> None:
        # Checked incrementally, since small values that refer to each other can
        # expand without limit.
        self.size += size
        if self.size > MAX_TABLE_BYTES:
            raise ValueError(
                f"{self.what} would take at least {self.size} bytes encoded, but the"
                f" limit is {MAX_TABLE_BYTES} bytes: move the data into the payload"
            )

    def table(self, table: Mapping[Any, Any], path: _Path) -> dict[str, Any]:
        self.count(EMPTY_TABLE_BYTES)
        return {
            self.key(key, path): self.value(item, (*path, key))
            for key, item in table.items()
        }

    def key(self, key: object, path: _Path) -> str:
        key = self.clean(key)
        name = _short_string(key, (f"a key of {path[0]}", *path[1:]))
        self.count(1 + len(name.encode()))
        return name

    def clean(self, value: Any) -> Any:
        return well_formed(value) if self.replace and isinstance(value, str) else value

    def value(self, value: Any, path: _Path) -> Any:
        value = self.clean(value)
        convert = _SCALARS.get(type(value)) or _convert_of_base(value)
        if convert is not None:
            converted, size = convert(value, path)
            self.count(size)
            return converted
        text = as_text(value)
        return self.container(value, path) if text is None else self.value(text, path)

    def container(self, value: Any, path: _Path) -> Any:
        if len(path) > MAX_TABLE_DEPTH:
            raise ValueError(
                f"{self.what} is nested more than {MAX_TABLE_DEPTH} levels deep, or"
                " contains itself: flatten it"
            )
        if isinstance(value, Mapping):
            self.count(1)
            return self.table(value, path)
        if isinstance(value, (list, tuple)):
            self.count(5)
            return [self.value(item, (*path, i)) for i, item in enumerate(value)]
        raise TypeError(
            f"{_format(path)} is of type {type_name(value)}, which AMQP does not have:"
            f" {cure_for(value, _HEADER_CURES, 'send it as a string')}"
        )


def _format(path: _Path) -> str:
    return f"{path[0]}{''.join(f'[{quote_key(step)}]' for step in path[1:])}"


def _string_field(value: str, path: _Path) -> tuple[str, int]:
    return str.__str__(value), 5 + len(_utf8(value, path))


def _bytes_field(value: bytes, _path: _Path) -> tuple[bytes, int]:
    return bytes(value), 5 + len(value)


def _bool_field(value: bool, _path: _Path) -> tuple[bool, int]:
    return value, 2


def _int_field(value: int, path: _Path) -> tuple[int, int]:
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(
            f"{_format(path)} is an int of more than 64 bits: send it as a string"
        )
    return int(value), _INT_BYTES[int_letter(value)]


#: What a field takes with its type, in bytes.
_INT_BYTES: Mapping[bytes, int] = {b"s": 3, b"I": 5, b"l": 9}


def int_letter(value: int) -> bytes:
    """The type with which each client reads *value*, as AMQP's field tables name it.

    Negative numbers are misread in 32 bits by Ruby's amq-protocol, in 64 bits by pika
    before 1.4: as unsigned.
    """
    if 0 <= value < 1 << 31:
        return b"I"
    return b"s" if -(1 << 15) <= value < 0 else b"l"


def _none_field(_value: None, _path: _Path) -> tuple[None, int]:
    return None, 1


_Convert = Callable[[Any, _Path], tuple[Any, int]]

_SCALARS: Mapping[type, _Convert] = {
    str: _string_field,
    bool: _bool_field,
    int: _int_field,
    bytes: _bytes_field,
    type(None): _none_field,
}


def _convert_of_base(value: object) -> _Convert | None:
    """How a value of a scalar's subclass is converted; ``None``: it is of none."""
    return next((c for kind, c in _SCALARS.items() if isinstance(value, kind)), None)
