"""Payloads: the expectations of tests, and what a consumer would see."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from unittest.mock import ANY
from uuid import UUID

import pytest
from flask.json.provider import DefaultJSONProvider

from flask_eventcollector.testing import Captured, event
from tests.helpers import Shop

from .shop_app import failure, publish

MOMENT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=timezone.utc)
ID = UUID("12345678-1234-5678-1234-567812345678")


class Color(enum.Enum):
    RED = "red"


class Size(str, enum.Enum):
    SMALL = "s"


@dataclass
class Line:
    sku: str
    count: Any


def is_even(value: int) -> bool:
    return value % 2 == 0


FITTING: dict[str, tuple[Any, Any]] = {
    "a part of an object": ({"a": 1, "b": 2}, {"a": 1}),
    "a part of an object in a list": ([{"a": 1, "b": 2}], [{"a": 1}]),
    "nothing of an object": ({"a": 1}, {}),
    "a null": (None, None),
    "a whole number that was written as a float": (1.0, 1),
    "a time": ({"at": MOMENT}, {"at": MOMENT}),
    "a time as text": ({"at": MOMENT}, {"at": "2026-03-01T12:30:15.123456+00:00"}),
    "a date": ([date(2026, 3, 1)], [date(2026, 3, 1)]),
    "a UUID": (ID, str(ID)),
    "an amount": (Decimal("9.50"), Decimal("9.50")),
    "a tuple": ({"pair": (1, 2)}, {"pair": (1, 2)}),
    "a tuple as a list": ((1, 2), [1, 2]),
    "a dataclass": (Line("A1", 2), Line("A1", 2)),
    "a dataclass as an object": (Line("A1", 2), {"sku": "A1"}),
    "a predicate in a dataclass": (Line("A1", 2), Line(ANY, is_even)),
    "an enum of strings": (Size.SMALL, Size.SMALL),
    "a key that is a number": ({1: "a", None: "b"}, {1: "a", "null": "b"}),
    "a type": ({"n": 7, "s": "x"}, {"n": int, "s": str}),
    "the type of null": (None, type(None)),
    "one of two types": ([1, None], [int | None, str | None]),
    "any object": ({"a": {}}, {"a": Mapping}),
    "a pattern": ("ann@example.org", re.compile("@example")),
    "a predicate": (4, is_even),
    "anything": ({"a": [1, {"b": 2}]}, {"a": ANY}),
    "a matcher of another library": (0.1 + 0.2, pytest.approx(0.3)),
    "a matcher in a list": ([0.1 + 0.2, 1], [pytest.approx(0.3), 1]),
}


@pytest.mark.parametrize(("payload", "expected"), FITTING.values(), ids=FITTING)
def test_it_fits(shop: Shop, captured: Captured, payload: Any, expected: Any) -> None:
    publish(shop, payload)

    captured.assert_published("q", expected)


DIFFERING: dict[str, tuple[Any, Any, str]] = {
    "a number that is no boolean": (1, True, "payload: expected True, found 1"),
    "a boolean that is no number": (False, 0, "payload: expected 0, found False"),
    "a text that is no number": ("1", 1, "payload: expected 1, found '1'"),
    "an object that is a list": (
        [1],
        {"a": int},
        "payload: expected {'a': int}, found [1]",
    ),
    "a null that is missing": (
        {},
        {"a": None},
        "payload['a']: expected None, but it is missing",
    ),
    "a list that is too short": (
        [1],
        [1, str],
        "payload[1]: expected str, but it is missing",
    ),
    "a list that is too long": ([1, 2], [1], "payload[1]: not expected: 2"),
    "something deep inside": (
        {"a": [{"b": 1}]},
        {"a": [{"b": 2}]},
        "payload['a'][0]['b']: expected 2, found 1",
    ),
    "a time": (
        {"at": MOMENT},
        {"at": MOMENT + timedelta(microseconds=1)},
        "payload['at']: expected '2026-03-01T12:30:15.123457+00:00',"
        " found '2026-03-01T12:30:15.123456+00:00'",
    ),
    "an amount": (
        Decimal("9.5"),
        Decimal("9.50"),
        "payload: expected '9.50', found '9.5'",
    ),
    "a type": ("x", int, "payload: expected int, found 'x'"),
    "a boolean is no int": (True, int, "payload: expected int, found True"),
    "one of two types": (
        1.5,
        int | None,
        "payload: expected int | None, found 1.5",
    ),
    "a pattern": (
        "bob",
        re.compile("@"),
        "payload: expected re.compile('@'), found 'bob'",
    ),
    "a pattern for a number": (
        5,
        re.compile("5"),
        "payload: expected re.compile('5'), found 5",
    ),
    "a predicate": (3, is_even, "payload: expected is_even, found 3"),
    "a predicate that raises": (
        "x",
        is_even,
        "payload: expected is_even, found 'x'"
        " (TypeError: not all arguments converted during string formatting)",
    ),
    "a matcher of another library": (
        0.4,
        pytest.approx(0.3),
        "payload: expected 0.3 ± 3.0e-07, found 0.4",
    ),
}


@pytest.mark.parametrize(
    ("payload", "expected", "difference"), DIFFERING.values(), ids=DIFFERING
)
def test_it_differs(
    shop: Shop, captured: Captured, payload: Any, expected: Any, difference: str
) -> None:
    publish(shop, payload)

    captured.assert_not_published("q", expected)
    message = failure(captured.assert_published, "q", expected)
    assert f"(shop_app.py in publish):\n  {difference}\n\n" in message


def test_a_lambda_is_named_after_its_line(shop: Shop, captured: Captured) -> None:
    publish(shop, 3)

    def is_none(value: Any) -> bool:
        return value is None

    anonymous: Callable[[Any], bool] = lambda value: value > 3  # noqa: E731
    line = anonymous.__code__.co_firstlineno
    assert f"expected <lambda in test_matching.py:{line}>, found 3" in failure(
        captured.assert_published, "q", anonymous
    )
    assert "expected is_none, found 3" in failure(
        captured.assert_published, "q", is_none
    )


def test_a_payload_is_compared_as_it_was_when_it_was_enqueued(
    shop: Shop, captured: Captured
) -> None:
    order = {"sku": "A1"}
    with shop.app_context(), shop.events.auto_publish():
        shop.enqueue(order)
        order["sku"] = "B2"

    captured.assert_published("q", {"sku": "A1"})


def test_a_payload_that_is_changed_by_a_test_stays_as_it_was(
    shop: Shop, captured: Captured
) -> None:
    publish(shop, {"sku": "A1"})

    captured.published[0].payload["sku"] = "B2"

    captured.assert_published("q", {"sku": "A1"})


def test_what_the_app_teaches_json_is_understood(shop: Shop) -> None:
    class Provider(DefaultJSONProvider):
        @staticmethod
        def default(value: Any) -> Any:
            if isinstance(value, Color):
                return {"color": value.value}
            return DefaultJSONProvider.default(value)

    shop.json = Provider(shop)
    with shop.events.capture() as captured:
        publish(shop, {"paint": Color.RED})

    captured.assert_published("q", {"paint": Color.RED})
    captured.assert_published("q", {"paint": {"color": "red"}})


def test_what_the_app_does_not_teach_json_is_misuse(captured: Captured) -> None:
    with pytest.raises(TypeError) as caught:
        captured.assert_published("q", {"paint": [{Color.RED}]})

    assert "the expected payload['paint'][0] is of type" in str(caught.value)


IMPOSSIBLE: dict[str, Any] = {
    "a type of times": datetime,
    "a generic type": list[int],
    "a union with a generic type": dict[str, int] | None,
    "a pattern for bytes": re.compile(b"x"),
    "not a number": float("nan"),
    "a key that JSON doesn't have": {(1, 2): 3},
}


@pytest.mark.parametrize("expected", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_no_event_can_match_is_misuse(captured: Captured, expected: Any) -> None:
    with pytest.raises(TypeError, match=r"^the expected payload is .* can't represent"):
        captured.assert_published("q", expected)


def test_headers_are_compared_as_amqp_holds_them(
    shop: Shop, captured: Captured
) -> None:
    headers = {
        "at": MOMENT,
        "price": Decimal("9.50"),
        "key": b"\x00k",
        "tags": ("a", "b"),
        "by": {"id": 7, "name": "Ann"},
    }
    publish(shop, 1, headers=headers)

    captured.assert_published("q", headers=headers)
    captured.assert_published("q", headers={"key": re.compile(b"k"), "by": {"id": int}})
    captured.assert_published("q", headers={"at": str, "price": "9.50"})
    captured.assert_not_published("q", headers={"key": re.compile("k")})


def test_an_expected_event_shows_itself_as_it_is_written() -> None:
    expected = event(
        "orders.*",
        {"id": int, "to": re.compile("@"), "n": is_even, "x": ANY, "l": (1,)},
        headers={"tenant": str},
        exchange="shop",
        reason="*409",
        exact=True,
    )

    assert repr(event("q")) == "event('q')"
    assert repr(expected) == (
        "event('orders.*', {'id': int, 'to': re.compile('@'), 'n': is_even, 'x': ANY,"
        " 'l': [1]}, headers={'tenant': str}, exchange='shop', reason='*409',"
        " exact=True)"
    )
