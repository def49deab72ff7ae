"""Messages that are CloudEvents, as the official SDK reads them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_eventcollector.messages.amqp_fields import copy_headers
from flask_eventcollector.messages.cloudevents import attributes_of
from flask_eventcollector.messages.encoding import EventEncoder
from flask_eventcollector.messages.options import size_of
from tests.cloudevents import sdk
from tests.cloudevents.support import IDS, SOURCE, encode

MODES = ["binary", "structured"]
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678, timezone(timedelta(hours=1)))


class NoZone(tzinfo):
    """What does not know its offset."""

    def utcoffset(self, _: Any) -> None:
        return None

    dst = tzname = utcoffset


REQUIRED = {"specversion": "1.0", "source": SOURCE, "type": "orders"}
OWN: dict[str, Any] = {
    "subject": "order-7",
    "dataschema": "https://example.com/order.json#v1",
    "comexampleflag": True,
    "retries": -3,
    "trace0": UUID(int=7),
    "key": b"\xff\x00",
    "due": MOMENT,
    "nothing": None,
}
#: As text.
CANONICAL = {
    "subject": "order-7",
    "dataschema": "https://example.com/order.json#v1",
    "comexampleflag": "true",
    "retries": "-3",
    "trace0": "00000000-0000-0000-0000-000000000007",
    "key": "/wA=",
    "due": "2026-01-02T02:04:05.000678Z",
}


def refusal(mode: str = "binary", **options: Any) -> str:
    with pytest.raises((TypeError, ValueError)) as caught:
        encode(mode=mode, **options)
    return str(caught.value)


# What the SDK reads.


@pytest.mark.parametrize("mode", MODES)
def test_the_sdk_reads_what_each_event_says(mode: str) -> None:
    event = encode({"name": "Zoë"}, mode)

    found = sdk.read(event)

    assert sdk.about(found) == REQUIRED | {"datacontenttype": "application/json"}
    assert (found.get_id(), found.get_time()) == (event.id, event.enqueued_at)
    assert found.get_data() == event.payload == {"name": "Zoë"}


def test_the_sdk_reads_the_attributes_of_the_caller_as_text_in_headers() -> None:
    found = sdk.read(encode(attributes=OWN))

    expected = REQUIRED | CANONICAL | {"datacontenttype": "application/json"}
    assert sdk.about(found) == expected


def test_the_sdk_reads_the_attributes_of_the_caller_as_json_in_a_body() -> None:
    found = sdk.read(encode(mode="structured", attributes=OWN))

    typed = {"comexampleflag": True, "retries": -3}
    expected = REQUIRED | CANONICAL | typed | {"datacontenttype": "application/json"}
    assert sdk.about(found) == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("body", [b"\xff\x00", b""], ids=["bytes", "nothing"])
def test_the_sdk_reads_bytes(mode: str, body: bytes) -> None:
    event = encode(body, mode, content_type="image/png")

    found = sdk.read(event)

    assert found.get_datacontenttype() == "image/png"
    assert (found.get_data() or b"") == event.payload == body


def test_the_sdk_reads_the_other_prefix_by_the_binding_to_amqp_1_0() -> None:
    found = sdk.read_amqp(encode({"a": 1}, prefix="cloudEvents_", attributes=OWN))

    expected = REQUIRED | CANONICAL | {"datacontenttype": "application/json"}
    assert sdk.about(found) == expected
    assert found.get_data() == {"a": 1}


# Not the SDK's surrogates, nor the characters that CloudEvents do not allow.
texts = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Cn", "Co"]), min_size=1, max_size=60
)
values = st.one_of(texts, st.booleans(), st.integers(-(2**31), 2**31 - 1))
names = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).map(lambda name: f"x{name}")
payloads = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("mode", MODES)
@given(st.dictionaries(names.map(lambda name: name[:20]), values, max_size=4), payloads)
@settings(deadline=None, max_examples=100)
def test_the_sdk_reads_whatever_is_allowed(
    mode: str, attributes: dict[str, Any], payload: Any
) -> None:
    event = encode(payload, mode, attributes=attributes)

    found = sdk.read(event)

    for name in attributes:
        text = str(found.get_extension(name))
        # Python writes True.
        assert text.lower() == attributes_of(event)[name].lower()
    assert found.get_data() == event.payload == payload


# What goes over the wire.


def test_a_binary_event_has_the_body_and_the_content_type_that_it_has_without() -> None:
    without = EventEncoder(max_event_bytes=1000)
    compressed = {"content_type": "text/csv", "content_encoding": "gzip"}
    cases: list[tuple[Any, Any]] = [({"name": "Zoë"}, {}), (b"a,b", compressed)]
    for payload, options in cases:
        event = encode(payload, **options)
        plain = without.encode(payload, "orders", options=options, ids=IDS)
        assert event.body == plain.body
        assert event.content_type == plain.content_type
        assert event.properties.content_encoding == plain.properties.content_encoding


def test_the_headers_of_a_binary_event_are_text_beside_those_of_the_caller() -> None:
    event = encode(headers={"tenant": "acme"}, attributes={"retries": 3})

    assert event.headers == {
        "tenant": "acme",
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-source": SOURCE,
        "ce-type": "orders",
        "ce-time": event.enqueued_at.isoformat().replace("+00:00", "Z"),
        "ce-retries": "3",
    }


def test_a_structured_event_has_its_attributes_before_its_data() -> None:
    event = encode({"a": 1.0}, "structured", attributes={"subject": "é"})

    start = f'{{"specversion":"1.0","id":"{event.id}","source":"{SOURCE}",'
    end = '"subject":"é","datacontenttype":"application/json","data":{"a":1.0}}'
    assert event.body.decode().startswith(start)
    assert event.body.decode().endswith(end)
    assert event.content_type == "application/cloudevents+json; charset=utf-8"
    assert event.headers == {}


@pytest.mark.parametrize("mode", MODES)
def test_the_type_is_the_target_queue_unless_it_is_given(mode: str) -> None:
    event, other = encode(mode=mode), encode(mode=mode, type="com.example.order.v2")
    assert event.properties.type == attributes_of(event)["type"] == "orders"
    assert other.properties.type == "com.example.order.v2"
    assert attributes_of(other)["type"] == "com.example.order.v2"


@pytest.mark.parametrize(
    ("body", "member"),
    [
        (b'{"a": 1}', '"data":{"a": 1}'),
        ('"\N{SNOWMAN}"'.encode(), '"data":"\N{SNOWMAN}"'),
        (b"{", '"data_base64":"ew=="'),
        (b"NaN", '"data_base64":"TmFO"'),
        (b"\xff", '"data_base64":"/w=="'),
        (b"\xef\xbb\xbf1", '"data_base64":"77u/MQ=="'),
        (b"[" * 100_000, None),
    ],
    ids=["JSON", "text", "broken", "NaN", "not UTF-8", "byte-order mark", "deep"],
)
def test_bytes_are_inside_of_the_json_only_if_they_are_json(
    body: bytes, member: str | None
) -> None:
    encoders = [None, lambda payload, queue: (payload, "application/vnd.shop+json")]
    for encoder in encoders:
        options: Any = {} if encoder else {"content_type": "application/vnd.shop+json"}
        if len(body) > 10_000:
            body = body[:10_000]
        event = encode(body, "structured", encoder=encoder, **options)
        json.loads(event.body)
        if member is not None:
            assert event.body.decode().endswith(f"{member}}}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("headers", [None, {"b": "c"}], ids=["none", "one"])
def test_the_size_counts_what_is_added(mode: str, headers: Any) -> None:
    event = encode({"a": 1}, mode, attributes=OWN, headers=headers)
    _, size = copy_headers(event.headers)
    assert event.size == size + len(event.body) + size_of(event.properties)


def test_a_payload_may_be_as_large_as_without() -> None:
    event = encode("x" * 9_998, "structured")
    assert len(event.body) > 10_000


# What is refused.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        (["subject"], "attributes is of type list: pass a dict"),
        ({7: "a"}, "a key of attributes is of type int: pass a str"),
        ({"Subject": "a"}, 'attributes["Subject"] is not the name of an attribute'),
        ({"": "a"}, 'attributes[""] is not the name of an attribute: it has 1 to 20'),
        ({"a" * 21: "a"}, "is not the name of an attribute"),
        ({"a-b": "a"}, "is not the name of an attribute"),
        ({"id": "7"}, 'attributes["id"] is reserved: it is the id of the event'),
        ({"type": "a"}, 'attributes["type"] is reserved: pass it as type'),
        ({"source": "a"}, "is reserved: it is EVENTCOLLECTOR_CLOUDEVENTS_SOURCE"),
        ({"specversion": "0.3"}, "is reserved: it is 1.0"),
        ({"time": MOMENT}, "is reserved: it is the time when the event is enqueued"),
        ({"datacontenttype": "a/b"}, "is reserved: pass it as content_type"),
        ({"data": 1}, 'attributes["data"] is reserved: pass it as the payload'),
        ({"data_base64": "a"}, "is reserved: pass it as the payload, with a content_t"),
        ({"subject": ""}, 'attributes["subject"] is empty: pass a str, or leave it'),
        ({"subject": 7}, 'attributes["subject"] is of type int, which CloudEvents do'),
        ({"subject": "a\nb"}, "has the character U+000A, which CloudEvents do not"),
        ({"subject": "a\x85"}, "has the character U+0085"),
        ({"subject": "\ufdd0"}, "has the character U+FDD0"),
        ({"subject": "\U0010ffff"}, "has the character U+10FFFF"),
        ({"subject": "\ud83d"}, "has a lone surrogate, which UTF-8 can't encode"),
        ({"dataschema": "order.json"}, 'attributes["dataschema"] is not a URI: pass'),
        ({"dataschema": 7}, "is of type int"),
        ({"weight": 1.5}, "is of type float, which CloudEvents do not have: pass a"),
        ({"parts": ["a"]}, "is of type list"),
        ({"big": 2**31}, 'attributes["big"] is an int of more than 32 bits: pass str'),
        ({"small": -(2**31) - 1}, "is an int of more than 32 bits"),
        ({"due": datetime(2026, 1, 2)}, 'attributes["due"] has no time zone: pass fo'),
        ({"due": datetime(2026, 1, 2, tzinfo=NoZone())}, 'due"] has no time zone: pas'),
        (
            {"due": datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))},
            'attributes["due"] is in UTC not in the years 1 to 9999',
        ),
        ({f"a{n}": "x" * 255 for n in range(200)}, "attributes take 51"),
    ],
)
def test_a_wrong_attribute_is_named_with_the_cure(
    mode: str, attributes: Any, error: str
) -> None:
    assert error in refusal(mode, attributes=attributes)


def test_a_long_value_is_refused_in_a_header_only() -> None:
    message = refusal(attributes={"subject": "ü" * 128})
    assert message.startswith('attributes["subject"] takes 256 bytes, but 255 are the')
    assert "set EVENTCOLLECTOR_CLOUDEVENTS to 'structured'" in message
    encode(attributes={"subject": "x" * 255})
    encode(mode="structured", attributes={"subject": "ü" * 128})


@pytest.mark.parametrize("mode", MODES)
def test_the_limits_may_be_reached(mode: str) -> None:
    attributes = {"a" * 20: 2**31 - 1, "0": -(2**31)}
    found = attributes_of(encode(mode=mode, attributes=attributes))
    assert (found["a" * 20], found["0"]) == ("2147483647", "-2147483648")


@pytest.mark.parametrize("mode", MODES)
def test_invalid_text_is_replaced_if_the_setting_says_so(mode: str) -> None:
    event = encode(mode=mode, attributes={"subject": "\ud83d"}, replace=True)
    assert sdk.read(event).get_subject() == "\ufffd"


@pytest.mark.parametrize(
    "name", ["ce-id", "CE-Tenant", "cloudEvents_id", "cloudevents:x"]
)
def test_a_header_that_looks_like_an_attribute_is_refused(name: str) -> None:
    message = refusal(headers={name: "a"})
    assert f'headers["{name}"] is reserved: it looks like an attribute' in message
    assert encode(mode="structured", headers={name: "a"}).headers == {name: "a"}


@pytest.mark.parametrize("mode", MODES)
def test_a_cloudevent_in_a_cloudevent_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=r"content_type is that of a CloudEvent"):
        encode(b"{}", mode, content_type="application/CloudEvents+json")


def test_compressed_data_has_no_place_in_a_structured_event() -> None:
    about: Any = {"content_type": "text/csv", "content_encoding": "gzip"}
    with pytest.raises(ValueError, match=r"content_encoding has no place.*'binary'"):
        encode(b"\x1f", "structured", **about)
    event = encode(1, "structured", content_encoding="UTF-8")
    assert sdk.read(event).get_data() == event.payload == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_type_that_cloudevents_do_not_allow_is_refused(mode: str) -> None:
    assert "target_queue, which is the type, has the character U+000A" in refusal(
        mode, queue="a\nb"
    )
    assert "type has the character U+0009" in refusal(mode, type="a\tb")
    assert encode(mode=mode, queue="a\nb", type="fine").target_queue == "a\nb"


def test_attributes_without_the_setting_are_refused() -> None:
    encoder = EventEncoder(max_event_bytes=1000)
    with pytest.raises(ValueError, match=r"set EVENTCOLLECTOR_CLOUDEVENTS to 'binary'"):
        encoder.encode(1, "q", options={"attributes": {"subject": "7"}}, ids=IDS)
    assert encoder.encode(1, "q", options={"attributes": None}, ids=IDS).is_plain
