"""What an event says about itself, besides payload, target and headers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flask_eventcollector import EncodingError, Event, EventOptions, Properties
from flask_eventcollector.messages.encoding import EventEncoder, Ids
from flask_eventcollector.messages.options import read_options
from tests.helpers import Shop, open_shop

IDS = Ids()
ALL: EventOptions = {
    "content_type": "application/vnd.shop+json",
    "content_encoding": "utf-8",
    "type": "order.created",
    "correlation_id": "7",
    "reply_to": "answers",
    "priority": 5,
}
NONE: dict[str, Any] = dict.fromkeys(ALL)


def encode(payload: Any = None, size: int = 1000, **options: Any) -> Event:
    encoder = EventEncoder(max_event_bytes=size)
    return encoder.encode(payload, "orders", options=options, ids=IDS)


def refusal(payload: Any = None, **options: Any) -> str:
    with pytest.raises((TypeError, ValueError)) as caught:
        encode(payload, **options)
    return str(caught.value)


def test_each_option_is_a_property_of_the_event() -> None:
    event = encode({"a": 1}, **ALL)
    assert event.properties == Properties(**ALL)  # type: ignore[arg-type, misc]
    assert event.properties.as_dict() == ALL
    assert event.payload == {"a": 1}
    assert repr(event).startswith("Event(id=")


def test_none_is_the_same_as_leaving_it_out() -> None:
    event = encode(**NONE)
    assert event.properties == Properties()
    assert event.content_type == "application/json"


def test_an_event_without_properties_takes_no_more_memory() -> None:
    plain, other = encode(), encode(priority=5)
    assert type(plain) is Event
    assert sys.getsizeof(plain) < sys.getsizeof(other)


@pytest.mark.parametrize("name", ["correlation_id", "reply_to", "type"])
def test_a_uuid_is_sent_as_text(name: str) -> None:
    properties = read_options({name: UUID(int=7)})
    assert properties.as_dict() == {name: str(UUID(int=7))}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"prioritty": 5}, "no argument 'prioritty': did you mean priority?"),
        ({"user_id": "ann"}, "no argument 'user_id': there are content_type, "),
        ({"message_id": None}, "no argument 'message_id'"),
        ({"correlation_id": 7}, "correlation_id is of type int: pass a str"),
        ({"type": ""}, "type is empty: pass a str, or leave it out"),
        ({"type": "ü" * 128}, "type takes 256 bytes in UTF-8, but AMQP allows 255"),
        ({"reply_to": "\ud800"}, "reply_to has a lone surrogate"),
        ({"reply_to": "amq.rabbitmq.reply-to"}, "pass the name of a queue"),
        ({"priority": "5"}, "priority is of type str: pass an int, 0 to 255"),
        ({"priority": True}, "priority is of type bool: pass an int"),
        ({"priority": 1.0}, "priority is of type float: pass an int"),
        ({"priority": 256}, "priority is out of range: pass an int from 0 to 255"),
        ({"priority": -1}, "priority is out of range"),
        ({"expires_in": 10**400}, "expires_in is out of range: pass 1 ms to 49 days"),
        ({"delay": 10**400}, "delay is out of range: pass 0 to 3650 days"),
    ],
)
def test_what_is_wrong_is_named_at_once_with_the_cure(
    options: dict[str, Any], error: str
) -> None:
    assert error in refusal(**options)


def test_the_limits_of_amqp_may_be_reached() -> None:
    event = encode(type="x" * 255, priority=255)
    assert event.properties.priority == 255
    assert encode(priority=0).properties == Properties(priority=0)


def test_the_size_of_an_event_counts_its_properties() -> None:
    assert encode(type="ü" * 100).size > encode().size + 200


# Bytes.


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_with_a_type_go_out_untouched(kind: Any) -> None:
    event = encode(kind(b"\xff\x00"), content_type="application/x-protobuf")
    assert (type(event.body), event.body) == (bytes, b"\xff\x00")
    assert event.payload == b"\xff\x00"
    assert event.content_type == "application/x-protobuf"


@pytest.mark.parametrize("options", [{}, {"type": "order"}])
def test_bytes_without_a_type_are_refused(options: dict[str, Any]) -> None:
    message = refusal(b"\xff", **options)
    assert message.startswith("payload is of type bytes: say what it is by")


@pytest.mark.parametrize(
    "body",
    [b'{"a":1}', b"\xff{", b"", b"[" * 100_000],
    ids=["json", "no text", "empty", "too deep"],
)
def test_bytes_may_be_json_which_nobody_checks(body: bytes) -> None:
    event = encode(body, 200_000, content_type="application/json; charset=utf-8")
    assert event.body == body
    assert event.payload == ({"a": 1} if body == b'{"a":1}' else body)


def test_compressed_json_is_not_decoded() -> None:
    types: Any = {"content_type": "application/json", "content_encoding": "gzip"}
    assert encode(b"1", **types).payload == b"1"


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(EncodingError, match=r"payload takes 11 bytes, but EVENT"):
        encode(b"x" * 11, 10, content_type="text/plain")
    assert encode(b"x" * 10, 10, content_type="text/plain").size > 10


def test_json_is_not_sent_under_another_name() -> None:
    message = refusal({"a": 1}, content_type="text/csv")
    assert message.startswith("content_type is not JSON, but the payload is of type")


@pytest.mark.parametrize("named", [{}, {"content_type": "application/json"}])
def test_json_is_not_sent_as_if_it_were_compressed(named: dict[str, Any]) -> None:
    message = refusal({"a": 1}, content_encoding="gzip", **named)
    assert message.startswith("content_encoding is not UTF-8, but the payload is of")
    assert "leave content_encoding out" in message


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "identity"])
def test_json_may_say_how_its_text_is_encoded(encoding: str) -> None:
    event = encode({"a": 1}, content_encoding=encoding)
    assert event.payload == {"a": 1}
    assert event.properties.content_encoding == encoding


# Every collector.


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    with open_shop() as shop:
        yield shop


def test_every_collector_takes_the_options(shop: Shop) -> None:
    events = shop.events
    events.thread_singleton_instance().enqueue_event(1, "q", priority=1)
    events.publish()
    with events.auto_publish() as block:
        block.enqueue_event(2, "q", priority=2)
        events.enqueue_event(3, "q", priority=3)
    found = [(e.payload, e.properties.priority) for e in shop.broker.events("q")]
    assert found == [(1, 1), (2, 2), (3, 3)]


def test_a_double_that_takes_none_still_works_without(shop: Shop) -> None:
    class Double:
        events_to_publish = ()

        def enqueue_event(
            self, payload: Any, queue: str, *, headers: Any, exchange: Any
        ) -> str:
            return f"{payload} for {queue}"

        def publish(self, timeout: float | None = None) -> None: ...

        def clear_events_to_publish(self) -> None: ...

    double: Any = Double()
    with shop.events.use_collector(double):
        assert shop.events.enqueue_event(1, "q") == "1 for q"  # type: ignore[comparison-overlap]


def test_the_mark_of_a_second_copy_leaves_the_properties(shop: Shop) -> None:
    with shop.events.capture() as captured:
        captured.fail_next(outcome="unknown")
        with shop.events.auto_publish():
            shop.events.enqueue_event(1, "q", priority=9)
        captured.flush()
    (event,) = shop.broker.events("q")
    assert (event.properties.priority, "x-possible-duplicate" in event.headers) == (
        9,
        True,
    )
