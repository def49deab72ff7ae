"""Converts events to checksummed rows or back."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from ...delivery.entries import Entry, State
from ...events import Event
from ..plain import about_as_text, about_from_text, time_of

#: The columns of a row, in order.
COLUMNS = (
    "number",
    "exchange",
    "queue",
    "id",
    "headers",
    "enqueued_at",
    "size",
    "body",
    "dead",
    "checksum",
)
#: What the checksum is of: the other columns, each after its length.
_DELIMITED = b"%d:%b" * (len(COLUMNS) - 1)


class DamagedRow(Exception):
    """A row whose content is not what was written."""


class StoredEvent(NamedTuple):
    """The content of a row."""

    number: int
    event: Event
    #: Why the event is dead; ``None``: it is not.
    dead: str | None


def row_of(entry: Entry, number: int) -> tuple[Any, ...]:
    """The row for *entry*, with its checksum."""
    event = entry.event
    fields = (
        number,
        event.exchange,
        event.target_queue,
        event.id,
        about_as_text(event),
        event.microseconds,
        event.size,
        event.body,
        entry.reason if entry.state is State.DEAD else None,
    )
    return (*fields, _checksum(*fields))


def read_row(row: tuple[Any, ...]) -> StoredEvent:
    """The content of *row*, whose text columns are bytes.

    :raises DamagedRow: it is damaged.
    """
    try:
        return _read(*row)
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError) as error:
        # A flipped bit may change a column's type, or make its text invalid UTF-8.
        raise DamagedRow(f"row {row[0]!r} is damaged") from error


def intact(rows: Iterable[tuple[Any, ...]]) -> list[StoredEvent]:
    """The content of *rows*, without the damaged ones."""
    found = []
    for row in rows:
        with suppress(DamagedRow):
            found.append(read_row(row))
    return found


def _read(
    number: int,
    exchange: bytes,
    queue: bytes,
    id: bytes,
    headers: bytes,
    enqueued_at: int,
    size: int,
    body: bytes,
    dead: bytes | None,
    checksum: int,
) -> StoredEvent:
    texts = [value.decode() for value in (exchange, queue, id, headers)]
    reason = None if dead is None else dead.decode()
    if _checksum(number, *texts, enqueued_at, size, body, reason) != checksum:
        raise ValueError("checksum mismatch")
    own_headers, properties = about_from_text(texts[3])
    event = Event.of(
        id=texts[2],
        target_queue=texts[1],
        exchange=texts[0],
        body=body,
        headers=own_headers,
        enqueued_at=time_of(enqueued_at),
        size=size,
        properties=properties,
    )
    return StoredEvent(number, event, reason)


def _checksum(*fields: Any) -> int:
    delimited: list[int | bytes] = []
    for field in fields:
        part = field if isinstance(field, bytes) else repr(field).encode()
        delimited += (len(part), part)
    return zlib.crc32(_DELIMITED % (*delimited,))
