"""Any payload that encodes is found, but not with any one value changed."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_eventcollector.testing import Captured
from tests.helpers import Shop

from .shop_app import make_shop, publish


@dataclass
class Line:
    sku: str
    price: Decimal


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
amounts = st.decimals(allow_nan=False, allow_infinity=False)
moments = st.datetimes(timezones=st.just(timezone.utc)) | st.datetimes() | st.dates()
scalars = (
    st.none()
    | st.booleans()
    | numbers
    | text
    | amounts
    | moments
    | st.uuids()
    | st.builds(Line, text, amounts)
)
keys = text | st.integers() | st.booleans() | st.none()
payloads = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)

Path = tuple[Any, ...]


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """One shop for all examples."""
    shop = make_shop()
    yield shop
    shop.events.close(1)


def captured(shop: Shop, payload: Any) -> Captured:
    """The capture of one event."""
    with shop.app_context(), shop.events.capture() as captured:
        publish(shop, payload)
    return captured


@given(payload=payloads)
@settings(max_examples=100)
def test_a_payload_is_found_by_itself(shop: Shop, payload: Any) -> None:
    seen = captured(shop, payload)

    seen.assert_published("q", payload, times=1)
    seen.assert_published("q", payload, exact=True)
    seen.assert_published("q", seen.published[0].payload, exact=True)
    assert seen.published[0].payload == json.loads(seen.published[0].event.body)


@given(payload=payloads, data=st.data())
@settings(max_examples=100)
def test_a_payload_is_not_found_by_another_value(
    shop: Shop, payload: Any, data: st.DataObject
) -> None:
    seen = captured(shop, payload)
    found = seen.published[0].payload
    path = data.draw(st.sampled_from(list(places(found))))
    other = data.draw(scalars.filter(lambda value: differs(value, at(found, path))))

    changed = with_value(found, path, other)

    seen.assert_not_published("q", changed)
    with pytest.raises(AssertionError) as caught:
        seen.assert_published("q", changed)
    where = "".join(f"[{step!r}]" for step in path)
    assert f"payload{where}" in str(caught.value)


@given(payload=st.dictionaries(text, scalars, min_size=1, max_size=4), data=st.data())
@settings(max_examples=50)
def test_a_part_is_enough_unless_all_is_asked_for(
    shop: Shop, payload: dict[str, Any], data: st.DataObject
) -> None:
    seen = captured(shop, payload)
    left_out = data.draw(st.sampled_from(list(payload)))
    part = {key: value for key, value in payload.items() if key != left_out}

    seen.assert_published("q", part)
    with pytest.raises(AssertionError, match="not expected"):
        seen.assert_published("q", part, exact=True)


@given(queue=st.text(string.printable, min_size=1, max_size=10))
@settings(max_examples=100)
def test_each_queue_is_found_by_its_name(shop: Shop, queue: str) -> None:
    with shop.app_context(), shop.events.capture() as seen:
        publish(shop, 1, queue=queue)

    seen.assert_published(queue, times=1)
    seen.assert_published("*", times=1)
    seen.assert_not_published(f"{queue}!")


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a decoded payload."""
    yield path
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for step, child in children:
        yield from places(child, (*path, step))


def at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def with_value(value: Any, path: Path, other: Any) -> Any:
    """*value* with *other* in one place."""
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_value(value[path[0]], path[1:], other)
    return copy


def differs(other: Any, value: Any) -> bool:
    """Whether a consumer could distinguish them."""
    plain = _plain(other)
    if isinstance(plain, dict) and isinstance(value, dict):
        # A part of an object is found.
        return not plain.items() <= value.items() if _flat(value) else True
    if isinstance(plain, bool) or isinstance(value, bool):
        return plain is not value
    return bool(plain != value)


def _flat(value: dict[str, Any]) -> bool:
    return not any(isinstance(child, (dict, list)) for child in value.values())


def _plain(value: Any) -> Any:
    if isinstance(value, Line):
        return {"sku": value.sku, "price": str(value.price)}
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
