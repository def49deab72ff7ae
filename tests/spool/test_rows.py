"""Conversion of an event to a checksummed row and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_eventcollector.delivery.entries import Entry, State
from flask_eventcollector.events import Properties
from flask_eventcollector.messages.amqp_fields import copy_headers
from flask_eventcollector.stores.plain import untagged
from flask_eventcollector.stores.spool.rows import (
    COLUMNS,
    DamagedRow,
    read_row,
    row_of,
)
from tests.parts import make_event

#: AMQP allows no U+0000 in them.
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
HEADERS: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def stored(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row as it is read: text as bytes."""
    return tuple(v.encode() if isinstance(v, str) else v for v in row)


def row() -> tuple[Any, ...]:
    return stored(row_of(Entry(make_event({"a": 1}, headers={"h": 1})), 7))


TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
PROPERTIES = st.builds(
    Properties,
    content_type=TEXT,
    content_encoding=TEXT,
    type=TEXT,
    correlation_id=TEXT,
    reply_to=TEXT,
    priority=st.none() | st.integers(0, 255),
)


@given(st.text(), st.dictionaries(KEYS, HEADERS, max_size=4), PROPERTIES)
def test_an_event_comes_back_as_it_was(
    payload: str, headers: dict[str, Any], properties: Properties
) -> None:
    kept, _ = copy_headers({f"x{key}": value for key, value in headers.items()})
    about: dict[str, Any] = {
        "exchange": "exchange",
        "headers": kept,
        "properties": properties,
    }
    event = make_event(payload, "queue", **about)

    number, found, dead = read_row(stored(row_of(Entry(event), 7)))

    assert (number, dead) == (7, None)
    names = ("id", "target", "body", "payload", "enqueued_at", "size", "properties")
    for name in names:
        assert getattr(found, name) == getattr(event, name)
    assert dict(found.headers) == dict(event.headers)


def test_each_header_keeps_its_type() -> None:
    headers = {
        "bytes": b"\x00\xff",
        "table": {"bytes": "no bytes", "list": [1, None, True, {"time": 5}]},
    }
    found = read_row(stored(row_of(Entry(make_event(headers=headers)), 1))).event
    assert dict(found.headers) == headers
    assert [type(v) for v in found.headers.values()] == [
        type(v) for v in headers.values()
    ]


def test_numbers_and_times_that_an_earlier_version_has_written_are_text() -> None:
    written = {"decimal": {"decimal": "1.50"}, "time": {"time": 1767323045}}
    assert untagged({"table": written}) == {
        "decimal": "1.50",
        "time": "2026-01-02T03:04:05+00:00",
    }


def test_a_dead_event_keeps_its_reason() -> None:
    entry = Entry(make_event())
    entry.state, entry.reason = State.DEAD, "no queue"
    assert read_row(stored(row_of(entry, 1))).dead == "no queue"


@given(st.integers(0, len(COLUMNS) - 1), st.integers(0, 255), st.integers(0))
def test_any_change_is_detected(column: int, byte: int, place: int) -> None:
    damaged = list(row())
    before = damaged[column]
    if isinstance(before, bytes):
        place %= len(before) + 1
        damaged[column] = before[:place] + bytes([byte]) + before[place + 1 :]
    else:
        damaged[column] = byte
    if damaged[column] != before:
        with pytest.raises(DamagedRow):
            read_row(tuple(damaged))


@pytest.mark.parametrize("value", [None, 3, 2.5, b"\xff", b"", 1 << 62])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_of_another_type_is_noticed(column: str, value: object) -> None:
    damaged = list(row())
    if damaged[COLUMNS.index(column)] != value:
        damaged[COLUMNS.index(column)] = value
        with pytest.raises(DamagedRow):
            read_row(tuple(damaged))


def test_the_error_shows_nothing_of_the_event() -> None:
    damaged = list(row_of(Entry(make_event("secret")), 7))
    with pytest.raises(DamagedRow) as raised:
        read_row(tuple(damaged))
    assert str(raised.value) == "row 7 is damaged"
