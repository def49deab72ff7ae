"""Messages are encoded as pika encodes them, byte for byte."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec
from pika.connection import Connection

from flask_eventcollector.brokers.rabbitmq.frames import MessageFrames
from flask_eventcollector.delivery.entries import Entry
from flask_eventcollector.events import Event, Properties
from flask_eventcollector.messages.amqp_fields import POSSIBLE_DUPLICATE
from tests.amqp import decoded_frames
from tests.parts import make_event

APP, EXCHANGE, CHANNEL, FRAME_MAX = "shop", "events", 7, 4096

short_names = st.text(min_size=1, max_size=60)
header_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.integers(0, 2**63 - 1)
    | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(short_names, inner, max_size=3)
    ),
    max_leaves=6,
)
headers = st.dictionaries(short_names, header_values, max_size=4)
ids = st.one_of(st.uuids().map(str), st.just("another"), st.just("é" * 18))
properties = st.builds(
    Properties,
    priority=st.none() | st.integers(0, 255),
    **{
        name: st.none() | short_names
        for name in (
            "content_type",
            "content_encoding",
            "type",
            "correlation_id",
            "reply_to",
        )
    },
)
times = st.datetimes(
    datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc)
)


class PikasEncoder:
    """What pika would write for a message, with nothing of ours in between."""

    _send_message: Any = vars(Connection)["_send_message"]

    def __init__(self, frame_max: int, *, mandatory: bool = True) -> None:
        self._mandatory = mandatory
        self._body_max_length = frame_max - spec.FRAME_HEADER_SIZE - spec.FRAME_END_SIZE
        self.written = b""

    def _output_marshaled_frames(self, frames: list[bytes]) -> None:
        self.written += b"".join(frames)

    def encode(self, entry: Entry) -> bytes:
        event = entry.event
        headers = dict(event.headers)
        if entry.possible_duplicate:
            headers[POSSIBLE_DUPLICATE] = True
        properties = spec.BasicProperties(
            message_id=event.id,
            timestamp=int(event.enqueued_at.timestamp()),
            app_id=APP,
            delivery_mode=2,
            headers=headers or None,
            **{"content_type": "application/json", **event.properties.as_dict()},
        )
        publish = spec.Basic.Publish(
            exchange=EXCHANGE,
            routing_key=event.target_queue,
            mandatory=self._mandatory,
        )
        self._send_message(CHANNEL, publish, (properties, event.body))
        return self.written


def an_entry(
    queue: str = "q", body: bytes = b"1", *, again: bool = False, **more: Any
) -> Entry:
    about = {
        "id": str(uuid.UUID(int=5)),
        "headers": {},
        "enqueued_at": datetime(2026, 1, 2, tzinfo=timezone.utc),
        **more,
    }
    entry = Entry(
        Event.of(
            target_queue=queue, exchange=EXCHANGE, body=body, size=len(body), **about
        )
    )
    entry.possible_duplicate = again
    return entry


def frames(app_id: str = APP, *, mandatory: bool = True) -> MessageFrames:
    return MessageFrames(
        CHANNEL, EXCHANGE, app_id=app_id, frame_max=FRAME_MAX, mandatory=mandatory
    )


@given(
    queue=short_names,
    body=st.one_of(
        st.binary(min_size=1, max_size=300),
        st.integers(FRAME_MAX - 20, 3 * FRAME_MAX).map(lambda size: b"x" * size),
    ),
    id=ids,
    headers=headers,
    enqueued_at=times,
    again=st.booleans(),
    mandatory=st.booleans(),
    properties=properties,
)
def test_a_message_is_encoded_as_pika_encodes_it(
    queue: str, body: bytes, again: bool, mandatory: bool, **more: Any
) -> None:
    entry = an_entry(queue, body, again=again, **more)
    expected = PikasEncoder(FRAME_MAX, mandatory=mandatory).encode(entry)
    ours = frames(mandatory=mandatory)
    assert ours.encode(entry) == expected
    # From the template that the first one has left.
    assert ours.encode(entry) == expected


@pytest.mark.parametrize("size", [1, FRAME_MAX - 8, FRAME_MAX - 7, FRAME_MAX * 2])
def test_no_frame_is_larger_than_the_broker_allows(size: int) -> None:
    data = frames().encode(an_entry(body=b"x" * size))
    bodies = [f.fragment for f in decoded_frames(data) if isinstance(f, frame.Body)]
    assert b"".join(bodies) == b"x" * size
    assert all(len(body) + 8 <= FRAME_MAX for body in bodies)


def test_an_empty_body_has_no_frame() -> None:
    assert frames().encode(an_entry(body=b"")) == PikasEncoder(FRAME_MAX).encode(
        an_entry(body=b"")
    )


@pytest.mark.parametrize("app_id", ["", "i" * 36, "tttttttt", "ssssssss"])
def test_an_app_may_have_any_name(app_id: str) -> None:
    data = frames(app_id).encode(an_entry())
    header = next(f for f in decoded_frames(data) if isinstance(f, frame.Header))
    assert header.properties.app_id == app_id
    assert header.properties.message_id == str(uuid.UUID(int=5))


def test_templates_do_not_pile_up() -> None:
    ours = frames()
    for number in range(3000):
        ours.encode(an_entry(f"queue-{number}"))
    assert len(ours._templates) <= 1000


def test_a_name_that_is_too_long_raises() -> None:
    with pytest.raises(ValueError, match="takes 256 bytes"):
        frames().encode(Entry(make_event(headers={"é" * 128: 1})))


def test_what_amqp_does_not_have_raises() -> None:
    with pytest.raises(TypeError, match="AMQP does not have the type complex"):
        frames().encode(Entry(make_event(headers={"number": 2j})))
