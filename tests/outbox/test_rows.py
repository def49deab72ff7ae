"""What comes back from a row."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from flask_eventcollector import Event
from flask_eventcollector.events import Properties
from flask_eventcollector.messages.amqp_fields import copy_headers
from flask_eventcollector.stores.filter import Filter
from tests.outbox.support import MUCH, Place
from tests.parts import make_event

HEADERS: dict[str, Any] = {
    "text": "Zażółć 🐘 'quoted' \"twice\" \\ % %s :x",
    "nul": "a\0b",
    "bytes": bytes(range(256)),
    "none": None,
    "true": True,
    "int": -(1 << 63),
    "list": [1, [b"\xff"], {"deep": False}],
    "table": {"bytes": "no bytes", "table": {"list": []}},
}

PROPERTIES = Properties(type="ü🐘", correlation_id="a\0", priority=255)


def through(place: Place, event: Event) -> Event:
    """*event* as another process claims it."""
    with place.engine.begin() as connection:
        place.outbox().write(connection, [event], held=False)
    (row,) = place.outbox().claim(1, MUCH)
    return row.event


def test_an_event_comes_back_as_it_was(place: Place) -> None:
    headers, _ = copy_headers(HEADERS)
    event = make_event(
        {"a": "ü🐘"},
        "Queue ü🐘",
        exchange="exchange.%s",
        headers=headers,
        size=77,
        properties=PROPERTIES,
    )

    found = through(place, event)

    for name in Event.__slots__:
        assert getattr(found, name) == getattr(event, name)
    assert found.properties == PROPERTIES
    assert type(found.body) is bytes
    assert [type(value) for value in found.headers.values()] == [
        type(value) for value in headers.values()
    ]


def test_events_for_one_target_share_it(place: Place) -> None:
    place.write(place.outbox(), "ab", queue="shared")
    one, other = place.outbox().claim(2, MUCH)
    assert one.event.target is other.event.target


def test_a_row_of_an_earlier_version_is_read(place: Place) -> None:
    (seq,) = place.write(place.outbox(), "a")
    headers = place.table.c.headers
    written = '{"table": {"tenant": "acme", "raw": {"bytes": "/w=="}}}'
    with place.engine.begin() as connection:
        connection.execute(update(place.table).values({headers: written}))
    (row,) = place.outbox().claim(1, MUCH)
    assert row.seq == seq
    assert row.event.headers == {"tenant": "acme", "raw": b"\xff"}
    assert row.event.properties == Properties()


def test_a_delayed_event_is_free_once_it_is_due(place: Place) -> None:
    outbox = place.outbox()
    delayed = make_event("later", properties=Properties(delay=60))
    with place.engine.begin() as connection:
        seqs = outbox.write(
            connection, [make_event("a"), delayed, make_event("b")], held=True
        )
    assert len(set(seqs)) == 3
    assert [*outbox.read(seqs)] == [seqs[0], seqs[2]]
    assert place.outbox().claim(9, MUCH) == []
    counts = place.admin().counts()
    assert (counts.held, counts.delayed) == (2, 1)
    (row,) = (row for row in place.admin().rows() if row.event.payload == "later")
    assert 50 < row.due_in <= 60

    place.end_leases()
    claimed = place.outbox().claim(9, MUCH)

    assert [row.event.payload for row in claimed if not row.maybe_sent] == ["later"]


@pytest.mark.parametrize("size", [65_535, 65_536, 1_200_000])
def test_a_body_may_be_large(place: Place, size: int) -> None:
    body = "x" * (size - 2)
    assert len(through(place, make_event(body)).body) == size


def test_headers_may_be_as_large_as_amqp_allows(place: Place) -> None:
    headers, _ = copy_headers({"x": b"\xff" * 65_000})
    assert through(place, make_event(headers=headers)).headers == headers


def test_names_and_ids_may_be_as_long_as_amqp_allows(place: Place) -> None:
    event = make_event(queue="q" * 255, exchange="e" * 255, id="i" * 255)
    found = through(place, event)
    assert (found.target, found.id) == (event.target, event.id)


def test_names_are_case_sensitive(place: Place) -> None:
    outbox = place.outbox()
    place.write(outbox, "a", queue="Orders")
    place.write(outbox, "b", queue="orders")
    rows = place.admin().rows(wanted=Filter("orders"))
    assert [row.event.target_queue for row in rows] == ["orders"]
