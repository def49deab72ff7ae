"""The encoding of payloads, names and headers."""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import traceback
import uuid
from collections import UserDict
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import flask
import pytest
from flask.json.provider import JSONProvider
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pika.data import decode_table

from flask_eventcollector.brokers.rabbitmq.field_table import encoded_table
from flask_eventcollector.errors import EncodingError
from flask_eventcollector.events import Event
from flask_eventcollector.messages.amqp_fields import MAX_TABLE_BYTES
from flask_eventcollector.messages.encoding import EventEncoder, Ids, provider_default
from tests.helpers import open_shop

UTC = timezone.utc
SECRET = "hunter2"
JSON_TYPE = "application/json"
IDS = Ids()

# No deadline, since a busy machine is not a failure.
quick = settings(deadline=None, max_examples=100)


def encode(payload: Any = None, target_queue: Any = "orders", **options: Any) -> Event:
    names = ("headers", "exchange", "options")
    about = {k: options.pop(k) for k in names if k in options}
    encoder = EventEncoder(**{"max_event_bytes": 1_000_000, **options})
    return encoder.encode(payload, target_queue, ids=IDS, **about)


def refusal(payload: Any, **options: Any) -> str:
    with pytest.raises(EncodingError) as caught:
        encode(payload, **options)
    return str(caught.value)


def header_refusal(value: Any) -> tuple[type[Exception], str]:
    with pytest.raises((TypeError, ValueError)) as caught:
        encode(headers={"a": value})
    return caught.type, str(caught.value)


@dataclasses.dataclass
class Item:
    sku: str
    price: Decimal


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    items: list[Item]


class Colour(enum.Enum):
    RED = "red"


class Size(str, enum.Enum):
    LARGE = "large"


class Number(enum.IntEnum):
    ONE = 1


class Unknown:
    """A type that neither JSON nor AMQP has."""

    def __repr__(self) -> str:
        return SECRET


# The event


def test_an_event_has_a_random_id_and_the_time_in_utc() -> None:
    before = datetime.now(UTC)
    event, other = encode(), encode()
    assert uuid.UUID(event.id).version == 4
    assert event.id != other.id
    assert before <= event.enqueued_at <= datetime.now(UTC)
    assert event.enqueued_at.tzinfo is UTC


def test_an_interpreter_without_jsons_c_encoder_encodes_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payload = {"a": [1, 2.5, None, True, "é", Decimal("1.50")]}
    expected = encode(payload).body
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    assert encode(payload).body == expected


def test_an_event_keeps_where_it_goes() -> None:
    event = encode(target_queue="orders.created", exchange="shop")
    assert (event.target_queue, event.exchange) == ("orders.created", "shop")


def test_an_encoder_serves_any_number_of_targets() -> None:
    encoder = EventEncoder(max_event_bytes=1000, exchange="shop")
    for number in range(2500):
        for exchange in (None, "", "other"):
            event = encoder.encode(1, f"q{number % 1200}", exchange=exchange, ids=IDS)
            expected = "shop" if exchange is None else exchange
            assert event.target == (expected, f"q{number % 1200}")


def test_events_for_one_target_share_it() -> None:
    encoder = EventEncoder(max_event_bytes=1000)
    one, other = (encoder.encode(n, "q", ids=IDS) for n in (1, 2))
    assert one.target is other.target


def test_the_default_exchange_is_the_nameless_one() -> None:
    assert encode().exchange == ""


def test_an_event_without_headers_counts_its_body() -> None:
    assert encode([1, 2], headers=None).size == len(b"[1,2]")
    assert encode([1, 2], headers={}).size == len(b"[1,2]")


def test_an_event_counts_its_headers() -> None:
    assert encode([1], headers={"a": 1}).size == len(b"[1]") + 4 + 2 + 5


# Names


@pytest.mark.parametrize(
    ("name", "error", "part"),
    [
        ("", ValueError, "target_queue is empty"),
        (None, TypeError, "target_queue is of type NoneType: pass a str"),
        (b"orders", TypeError, "target_queue is of type bytes: pass a str"),
        (7, TypeError, "target_queue is of type int: pass a str"),
        ("q" * 256, ValueError, "target_queue takes 256 bytes in UTF-8"),
        ("ü" * 128, ValueError, "target_queue takes 256 bytes in UTF-8"),
        ("a\ud800", ValueError, "target_queue has a lone surrogate"),
        ("a\0", ValueError, "target_queue has the character U+0000"),
        ("ü\0", ValueError, "target_queue has the character U+0000"),
    ],
)
def test_a_bad_target_queue_is_named(name: Any, error: type, part: str) -> None:
    with pytest.raises(error) as caught:
        encode(target_queue=name)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "error", "part"),
    [
        (b"x", TypeError, "exchange is of type bytes: pass a str"),
        (
            "x" * 256,
            ValueError,
            "exchange takes 256 bytes in UTF-8, but AMQP allows 255",
        ),
        ("\udfff", ValueError, "exchange has a lone surrogate"),
        ("\0", ValueError, "exchange has the character U+0000, which AMQP does not"),
    ],
)
def test_a_bad_exchange_is_named(name: Any, error: type, part: str) -> None:
    with pytest.raises(error) as caught:
        encode(exchange=name)
    assert part in str(caught.value)


@pytest.mark.parametrize("name", ["q" * 255, "ü" * 127])
def test_a_name_may_have_255_bytes(name: str) -> None:
    assert encode(target_queue=name, exchange=name).target_queue == name


def test_an_enum_that_is_a_str_names_the_queue_by_its_value() -> None:
    assert type(encode(target_queue=Size.LARGE).target_queue) is str
    assert str(encode(target_queue=Size.LARGE).target_queue) == "large"


# Payloads that can be sent

plain_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@quick
@given(plain_json)
@example("\u2028 \x00 \N{GRINNING FACE}")
def test_what_json_has_comes_back_as_it_was(payload: Any) -> None:
    assert encode(payload).payload == payload


def test_the_body_is_compact_utf_8() -> None:
    assert (
        encode({"name": "Zoë", "n": [1, 2]}).body == '{"name":"Zoë","n":[1,2]}'.encode()
    )


def test_later_changes_to_the_payload_change_nothing() -> None:
    payload = {"items": [1]}
    event = encode(payload)
    payload["items"].append(2)
    assert event.payload == {"items": [1]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2024, 5, 6, 7, 8, 9, 10), "2024-05-06T07:08:09.000010"),
        (datetime(2024, 5, 6, tzinfo=UTC), "2024-05-06T00:00:00+00:00"),
        (
            datetime(2024, 5, 6, tzinfo=timezone(timedelta(hours=2))),
            "2024-05-06T00:00:00+02:00",
        ),
        (date(2024, 5, 6), "2024-05-06"),
        (time(7, 8), "07:08:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.10"), "1.10"),
        (Size.LARGE, "large"),
        (Number.ONE, 1),
        ((1, 2), [1, 2]),
        ({1: "a", None: "b", False: "c"}, {"1": "a", "null": "b", "false": "c"}),
    ],
)
def test_known_types_become_plain(value: Any, text: Any) -> None:
    assert encode({"it": value}).payload == {"it": text}


def test_a_dataclass_becomes_an_object_all_the_way_down() -> None:
    order = Order(uuid.UUID(int=1), [Item("a", Decimal("9.90"))])
    assert encode(order).payload == {
        "id": "00000000-0000-0000-0000-000000000001",
        "items": [{"sku": "a", "price": "9.90"}],
    }


def test_other_types_are_offered_to_the_default() -> None:
    payload = encode([Unknown()], default=lambda value: {"type": type(value).__name__})
    assert payload.payload == [{"type": "Unknown"}]


def test_what_the_default_returns_is_encoded_like_the_rest() -> None:
    assert encode(Unknown(), default=lambda _: date(2024, 5, 6)).payload == "2024-05-06"


def test_known_types_are_not_offered_to_the_default() -> None:
    app = flask.Flask(__name__)
    event = encode(date(2024, 5, 6), default=provider_default(app.json))
    assert event.payload == "2024-05-06"


# Payloads that can't


def nested(depth: int) -> list[Any]:
    outer: list[Any] = []
    for _ in range(depth):
        outer = [outer]
    return outer


def endless() -> list[Any]:
    outer: list[Any] = []
    outer.append({"again": outer})
    return outer


def type_id(value: Any) -> str:
    # pytest's own ids would print an int with too many digits.
    return type(value).__name__


BAD_VALUES: list[tuple[Any, str, str]] = [
    ({1}, "of type set", "send a list, e.g. sorted(value)"),
    (frozenset({1}), "of type frozenset", "send a list"),
    (float("nan"), "a float that is not a finite number", "send None"),
    (float("-inf"), "a float that is not a finite number", "send None"),
    (Decimal("NaN"), "of type decimal.Decimal", "not a finite number, send None"),
    (Decimal("Infinity"), "of type decimal.Decimal", "send None"),
    (1j, "of type complex", "send it as a string"),
    (timedelta(1), "of type datetime.timedelta", "total_seconds()"),
    (Item, "of type type", "send an instance"),
    (UserDict(a=1), "of type collections.UserDict", "send dict(value)"),
    (range(3), "of type range", "send list(value)"),
    (iter([1]), "of type list_iterator", "send list(value)"),
    (Unknown(), f"of type {__name__}.Unknown", "app.json's default()"),
    (10**5000, "an int with too many digits", "hex(value)"),
    ("a\ud800", "a str with a lone surrogate", "encode"),
    ({(1, 2): 3}, "has a key of type tuple", "use str(key)"),
    ({Colour.RED: 3}, f"has a key of type {__name__}.Colour", "use key.value"),
    ({float("nan"): 3}, "has as a key a float", "send None"),
    ({"a\ud800": 3}, "has as a key a str with a lone surrogate", "encode"),
    ({10**5000: 3}, "has as a key an int with too many digits", "hex(value)"),
]


@pytest.mark.parametrize(("value", "what", "cure"), BAD_VALUES, ids=type_id)
def test_a_bad_value_is_refused_with_its_place_and_cure(
    value: Any, what: str, cure: str
) -> None:
    message = refusal({"items": [1, 2, 3, {"when": value}]})
    assert message.startswith('payload["items"][3]["when"] ')
    assert what in message
    assert cure in message


@pytest.mark.parametrize(("value", "what", "cure"), BAD_VALUES, ids=type_id)
def test_the_first_bad_value_may_be_the_payload_itself(
    value: Any, what: str, cure: str
) -> None:
    message = refusal(value)
    assert message.startswith("payload ")
    assert what in message
    assert cure in message


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ('say "hi"', r'["say \"hi\""]'),
        ("größe", '["größe"]'),
        ("line\n", r'["line\n"]'),
        ("k" * 41, f'["{"k" * 40}…"]'),
        (7, "[7]"),
        (1.5, "[1.5]"),
        (True, "[true]"),
        (None, "[null]"),
    ],
)
def test_a_key_is_shown_as_json_has_it(key: Any, shown: str) -> None:
    assert refusal({key: {1}}).startswith(f"payload{shown} is of type set")


def test_of_several_bad_values_the_first_is_named() -> None:
    assert refusal([1, {"a": {1}, "b": {2}}, {3}]).startswith('payload[1]["a"] is')


def test_a_place_inside_a_dataclass_is_named_by_its_field() -> None:
    order = Order(uuid.UUID(int=1), [Item("a", Decimal("sNaN"))])
    assert refusal(order).startswith('payload["items"][0]["price"] is of type')


def test_the_original_exception_is_chained() -> None:
    with pytest.raises(EncodingError) as caught:
        encode({1})
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_payload_that_contains_itself_is_refused() -> None:
    message = refusal({"a": endless()})
    assert message.startswith('payload["a"][0]["again"] is a list that contains itself')


def test_the_same_list_twice_is_not_a_circle() -> None:
    twice = [1]
    assert encode([twice, twice]).payload == [[1], [1]]
    assert refusal([twice, twice, {1}]).startswith("payload[2] is of type set")


def test_a_payload_that_is_nested_too_deeply_is_refused() -> None:
    message = refusal(nested(200_000))
    assert message.startswith("payload[0][0]")
    assert "…" in message
    assert len(message) < 200
    assert message.endswith("is nested too deeply: flatten it")


def test_a_default_that_never_ends_is_refused() -> None:
    assert "nested too deeply" in refusal(1j, default=lambda _: [Unknown()])


def test_a_default_that_returns_what_it_got_is_refused() -> None:
    assert "contains itself" in refusal(Unknown(), default=lambda value: value)


def test_a_default_that_raises_is_refused_without_its_message() -> None:
    def default(_value: object) -> None:
        raise KeyError(SECRET)

    message = refusal({"a": Unknown()}, default=default)
    assert message.startswith('payload["a"] is of type')
    assert "whose conversion raised KeyError: convert it" in message
    assert SECRET not in message


def test_a_default_with_a_bug_is_in_the_traceback() -> None:
    def default(value: Any) -> Any:
        return len(value)  # has none

    with pytest.raises(EncodingError) as caught:
        encode(Unknown(), default=default)
    report = "".join(traceback.format_exception(caught.value))
    assert "object of type 'Unknown' has no len()" in report


def test_a_dict_whose_own_code_raises_is_refused() -> None:
    class Hostile(dict[str, Any]):
        def items(self) -> Any:
            raise LookupError(SECRET)

    message = refusal(Hostile(a=1))
    assert "Hostile can't be encoded (LookupError): build it from plain" in message
    assert SECRET not in message


def test_a_value_that_fails_only_once_is_still_refused() -> None:
    answers: Iterator[Any] = iter([float("nan")])
    message = refusal([Unknown()], default=lambda _: next(answers, "fine"))
    assert message.startswith("payload of type list can't be encoded (")


@pytest.mark.parametrize("strikes_at", [1, 2])
@pytest.mark.parametrize("payload", [[1j], [1j, float("nan")], [1j, {1}]])
def test_an_unrelated_exception_propagates_unchanged(
    strikes_at: int, payload: Any
) -> None:
    """A signal handler raises while the encoder runs, or while its error is explained.

    The second one raises in the conversion that the explanation repeats.
    """

    class TimeLimit(Exception):
        pass

    class Broken(Exception):
        pass

    calls = []

    def default(_value: object) -> Any:
        calls.append(1)
        if len(calls) == strikes_at:
            raise TimeLimit
        if strikes_at == 2:
            raise Broken
        return "fine"

    with pytest.raises(TimeLimit):
        encode(payload, default=default)


def test_what_is_no_error_is_not_caught() -> None:
    def default(_value: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(Unknown(), default=default)


@quick
@given(
    st.lists(st.sampled_from(["a", "b", 0, 1]), max_size=4),
    st.sampled_from([bad for bad, _, _ in BAD_VALUES if bad is not Item]),
)
def test_no_value_of_a_payload_is_in_a_message(steps: list[Any], bad: Any) -> None:
    payload = bad
    for step in steps:
        if isinstance(step, str):
            payload = {"secret": SECRET, step: payload, "z": SECRET}
        else:
            payload = [SECRET] * step + [payload, SECRET]
    assert SECRET not in refusal(payload)


def test_a_payload_over_the_limit_is_refused_with_both_sizes() -> None:
    message = refusal("x" * 99, max_event_bytes=100)
    assert "payload takes 101 bytes" in message
    assert "EVENTCOLLECTOR_MAX_EVENT_BYTES is 100 bytes" in message
    assert "send a reference" in message


def test_the_limit_counts_bytes_and_may_be_reached() -> None:
    assert len(encode("ü" * 49, max_event_bytes=100).body) == 100


# The JSON provider


def test_the_default_of_flasks_provider_is_used() -> None:
    class Markup:
        def __html__(self) -> str:
            return "<b>"

    app = flask.Flask(__name__)
    assert encode(Markup(), default=provider_default(app.json)).payload == "<b>"


def test_a_type_that_flasks_provider_does_not_know_is_refused() -> None:
    app = flask.Flask(__name__)
    message = refusal(Unknown(), default=provider_default(app.json))
    assert "app.json's default()" in message


class Dumper(JSONProvider):
    """A provider like those for orjson, with ``dumps`` but without ``default``."""

    def dumps(self, obj: Any, **_: Any) -> str:
        return json.dumps(obj, default=lambda _: ["known"])

    def loads(self, s: str | bytes, **_: Any) -> Any:
        raise NotImplementedError


def test_a_provider_without_a_default_encodes_what_is_unknown() -> None:
    provider = Dumper(flask.Flask(__name__))
    assert encode([Unknown()], default=provider_default(provider)).payload == [
        ["known"]
    ]


# Headers that can be sent

keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10)
amqp_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-(2**31) - 2, 2**31 + 2)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.uuids(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=10,
)


def received_headers(event: Event) -> Any:
    return signed(decode_table(sent_headers(event), 0)[0])


def signed(value: Any) -> Any:
    """*value* with its numbers as they were sent, which pika 1.3 reads as unsigned."""
    if isinstance(value, dict):
        return {key: signed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [signed(item) for item in value]
    if isinstance(value, int) and value >= 1 << 63:
        return value - (1 << 64)
    return value


def sent_headers(event: Event) -> bytes:
    return encoded_table(event.headers)


RESERVED = ("CC", "BCC", "x-possible-duplicate")
header_names = keys.filter(lambda name: name not in RESERVED)


@quick
@given(st.dictionaries(header_names, amqp_values, max_size=4))
def test_headers_that_amqp_holds_arrive_as_the_event_has_them(
    headers: dict[str, Any],
) -> None:
    event = encode(headers=headers)
    assert received_headers(event) == event.headers


@quick
@given(st.dictionaries(header_names, amqp_values, min_size=1, max_size=4))
def test_headers_count_as_many_bytes_as_are_sent(
    headers: dict[str, Any],
) -> None:
    event = encode(headers=headers)
    assert event.size - len(event.body) == len(sent_headers(event))


@pytest.mark.parametrize(
    "value",
    [
        Decimal("19.90"),
        Decimal("1E+999999"),
        datetime(2026, 1, 2, 3, 4, 5, 678, UTC),
        datetime(1969, 12, 31),
        date(2026, 1, 2),
        time(3, 4, 5),
        uuid.UUID(int=7),
    ],
)
def test_what_is_text_in_a_payload_is_the_same_text_in_a_header(value: Any) -> None:
    event = encode([value], headers={"a": value, "b": [{"c": value}]})
    (text,) = event.payload
    assert event.headers == {"a": text, "b": [{"c": text}]}


@pytest.mark.parametrize(
    ("number", "kind", "size"),
    [
        (-1, b"s", 2),
        (-(2**15), b"s", 2),
        (-(2**15) - 1, b"l", 8),
        (-(2**63), b"l", 8),
        (2**31 - 1, b"I", 4),
        (2**31, b"l", 8),
    ],
)
def test_a_number_is_sent_as_most_clients_read_it(
    number: int, kind: bytes, size: int
) -> None:
    event = encode(headers={"a": [{"b": number}]})
    digits = number.to_bytes(size, "big", signed=True)
    assert sent_headers(event).endswith(b"\1b" + kind + digits)
    assert event.size - len(event.body) == len(sent_headers(event))


def test_a_bool_stays_a_bool() -> None:
    assert encode(headers={"a": True}).headers["a"] is True


def test_enums_that_are_str_or_int_become_plain() -> None:
    headers = encode(headers={"size": Size.LARGE, "n": Number.ONE}).headers
    assert (type(headers["size"]), type(headers["n"])) == (str, int)
    assert headers == {"size": "large", "n": 1}


def test_any_mapping_will_do() -> None:
    event = encode(headers=MappingProxyType({"a": UserDict(b=1)}))
    assert event.headers == {"a": {"b": 1}}
    assert type(event.headers["a"]) is dict


def test_later_changes_to_the_headers_change_nothing() -> None:
    headers: dict[str, Any] = {"a": [1, {"b": [2]}]}
    event = encode(headers=headers)
    headers["a"][1]["b"].append(3)
    headers["c"] = 4
    assert event.headers == {"a": [1, {"b": [2]}]}


def test_the_headers_of_an_event_can_not_be_set() -> None:
    event = encode(headers={"a": 1})
    with pytest.raises(TypeError):
        event.headers["a"] = 2  # type: ignore[index]


# Headers that can't


@pytest.mark.parametrize(
    ("value", "what", "cure"),
    [
        (1.5, "of type float", "send an int, or a str"),
        (float("nan"), "of type float", "send an int, or a str"),
        ({1}, "of type set", "send a list"),
        (bytearray(b"x"), "of type bytearray", "send bytes(value)"),
        (Decimal("NaN"), "of type decimal.Decimal", "not a finite number, send None"),
        (Decimal("-Infinity"), "of type decimal.Decimal", "send None"),
        (timedelta(1), "of type datetime.timedelta", "total_seconds()"),
        (Colour.RED, f"of type {__name__}.Colour", "send value.value"),
        (Unknown(), f"of type {__name__}.Unknown", "send it as a string"),
    ],
)
def test_a_header_of_a_wrong_type_is_named(value: Any, what: str, cure: str) -> None:
    error, message = header_refusal([0, {"b": value}])
    assert error is TypeError
    assert message.startswith(f'headers["a"][1]["b"] is {what}')
    assert cure in message


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (2**63, "an int of more than 64 bits: send it as a string"),
        (-(2**63) - 1, "an int of more than 64 bits: send it as a string"),
    ],
)
def test_a_header_value_that_does_not_fit_is_named(value: Any, what: str) -> None:
    error, message = header_refusal([value])
    assert error is ValueError
    assert message.startswith(f'headers["a"][0] is {what}')


def test_a_header_with_a_lone_surrogate_is_named() -> None:
    error, message = header_refusal("\ud800")
    assert error is ValueError
    assert message.startswith('headers["a"] has a lone surrogate')


@pytest.mark.parametrize(
    ("key", "error", "part"),
    [
        (1, TypeError, "a key of headers is of type int: pass a str"),
        (b"a", TypeError, "a key of headers is of type bytes: pass a str"),
        ("ü" * 128, ValueError, "a key of headers takes 256 bytes in UTF-8"),
        ("\ud800", ValueError, "a key of headers has a lone surrogate"),
        ("a\0b", ValueError, "a key of headers has the character U+0000"),
    ],
)
def test_a_bad_header_key_is_named(key: Any, error: type, part: str) -> None:
    with pytest.raises(error) as caught:
        encode(headers={key: 1})
    assert str(caught.value).startswith(part)


def test_a_bad_key_further_in_is_named_with_its_place() -> None:
    error, message = header_refusal({1: 2})
    assert error is TypeError
    assert message.startswith('a key of headers["a"] is of type int')


# Text from outside

SETTING = "or set EVENTCOLLECTOR_INVALID_TEXT to 'replace'"


@pytest.mark.parametrize(
    "where",
    [
        {"payload": "\ud800"},
        {"payload": {"\ud800": 1}},
        {"headers": {"a": "\ud800"}},
        {"headers": {"a": [{"b": "\ud800"}]}},
        {"headers": {"\ud800": 1}},
        {"headers": {"a": {"\ud800": 1}}},
    ],
)
def test_the_setting_is_named_wherever_it_replaces_text(where: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lone surrogate") as caught:
        encode(**where)
    assert SETTING in str(caught.value)
    encode(**where, replace_invalid_text=True)


@pytest.mark.parametrize("name", ["target_queue", "exchange"])
def test_the_setting_is_not_named_where_it_replaces_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="lone surrogate") as caught:
        encode(**{name: "\ud800"})
    assert SETTING not in str(caught.value)


def replaced(payload: Any) -> Any:
    return encode(payload, replace_invalid_text=True).payload


def test_a_lone_surrogate_can_be_replaced_wherever_text_may_be() -> None:
    payload = {"a\ud800": ["b\udfff", Item("\ud800c", Decimal(1)), {"\udc00": None}]}
    assert replaced(payload) == {
        "a\ufffd": ["b\ufffd", {"sku": "\ufffdc", "price": "1"}, {"\ufffd": None}]
    }


def test_two_surrogates_that_make_a_pair_become_its_character() -> None:
    assert replaced("\ud83d\ude00") == "\N{GRINNING FACE}"


@quick
@given(st.text(st.characters(exclude_categories=[]), max_size=50))
@example("\ufeff\ud800")
@example("\ud800\ud800\udc00\udc00")
def test_replaced_text_is_as_a_browser_would_send_it(text: str) -> None:
    # Each code unit that is no part of a pair becomes one U+FFFD.
    units = text.encode("utf-16-le", "surrogatepass")
    expected = units.decode("utf-16-le", "surrogatepass")
    expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in expected)
    assert replaced(text) == expected


def test_what_is_refused_otherwise_is_refused_when_text_is_replaced() -> None:
    message = refusal(["\ud800", {1}], replace_invalid_text=True)
    assert message.startswith("payload[1] is of type set")


def test_an_error_names_the_setting_that_replaces() -> None:
    assert "or set EVENTCOLLECTOR_INVALID_TEXT to 'replace'" in refusal("\ud800")


def test_headers_are_replaced_too() -> None:
    headers = {"a\ud800": "b\ud800", "c": ["\udfff", {"\udfff": "ü"}], "d": b"\xff"}
    event = encode(headers=headers, replace_invalid_text=True)
    assert event.headers == {
        "a\ufffd": "b\ufffd",
        "c": ["\ufffd", {"\ufffd": "ü"}],
        "d": b"\xff",
    }
    assert event.size == encode(headers=event.headers).size


def test_a_name_is_never_replaced() -> None:
    with pytest.raises(ValueError, match="target_queue has a lone surrogate"):
        encode(1, "a\ud800", replace_invalid_text=True)


@pytest.mark.parametrize(("setting", "status"), [("refuse", 500), ("replace", 200)])
def test_what_a_browser_sends_is_no_failure_if_text_is_replaced(
    setting: str, status: int
) -> None:
    with open_shop(INVALID_TEXT=setting) as shop:
        shop.config["PROPAGATE_EXCEPTIONS"] = False

        @shop.post("/")
        def view() -> str:
            shop.events.enqueue_event(flask.request.get_json(), "q")
            return "placed"

        # The result of JSON.stringify for half an emoji.
        body = '{"name": "cut off \\ud83d"}'
        answer = shop.test_client().post("/", data=body, content_type=JSON_TYPE)

        assert answer.status_code == status
        arrived = [{"name": "cut off \ufffd"}] if setting == "replace" else []
        assert shop.sent() == arrived


@pytest.mark.parametrize("headers", [[("a", 1)], "a", 5])
def test_headers_that_are_no_mapping_are_refused(headers: Any) -> None:
    with pytest.raises(TypeError, match=r"^headers is of type \w+: pass a dict"):
        encode(headers=headers)


@pytest.mark.parametrize("key", RESERVED)
def test_a_reserved_header_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=rf'^headers\["{key}"\] is reserved: '):
        encode(headers={"a": 1, key: ["other"]})


def test_a_reserved_name_further_in_is_only_a_name() -> None:
    assert encode(headers={"a": {"CC": 1}}).headers == {"a": {"CC": 1}}


def list_in_itself() -> Any:
    outer: list[Any] = []
    outer.append(outer)
    return outer


def dict_in_itself() -> Any:
    outer: dict[str, Any] = {}
    outer["again"] = outer
    return outer


@pytest.mark.parametrize("make", [list_in_itself, dict_in_itself])
def test_headers_that_contain_themselves_are_refused(make: Callable[[], Any]) -> None:
    error, message = header_refusal(make())
    assert error is ValueError
    assert "nested more than 32 levels deep, or contains itself: flatten it" in message


def test_headers_over_64_kib_are_refused_with_both_sizes() -> None:
    error, message = header_refusal("x" * MAX_TABLE_BYTES)
    assert error is ValueError
    assert "headers would take at least 65547 bytes encoded" in message
    assert "the limit is 65536 bytes: move the data into the payload" in message


def test_headers_may_reach_64_kib() -> None:
    event = encode(headers={"a": "x" * (MAX_TABLE_BYTES - 11)})
    assert event.size - len(event.body) == MAX_TABLE_BYTES


def test_small_headers_that_unfold_without_end_are_refused_at_once() -> None:
    value: Any = []
    for _ in range(30):
        value = [value, value, value]
    error, message = header_refusal(value)
    assert error is ValueError
    assert "at least" in message


def test_the_error_for_a_refused_event_shows_none_of_its_values() -> None:
    for value in (Unknown(), {Unknown()}, f"{SECRET}\ud800", [SECRET, 1.5]):
        _, message = header_refusal(value)
        assert SECRET not in message


def test_bytes_can_be_sent_with_the_cure() -> None:
    cured = base64.b64encode(b"x").decode()
    assert encode(cured).payload == cured


def items(values: list[Any]) -> Iterator[Any]:
    yield from values


def test_a_generator_can_be_sent_with_the_cure() -> None:
    assert "send list(value)" in refusal(items([1]))
    assert encode(list(items([1]))).payload == [1]
