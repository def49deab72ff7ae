"""Ids are kept as numbers, and shown as text."""

from __future__ import annotations

import functools
import operator
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_eventcollector.events import id_as_text, id_from_text
from flask_eventcollector.messages.encoding import Ids


def test_an_id_is_a_random_uuid() -> None:
    ids = Ids()
    numbers = [ids.new() for _ in range(1000)]
    assert len(set(numbers)) == 1000
    for number in numbers:
        text = id_as_text(number)
        assert str(uuid.UUID(text)) == text
        assert uuid.UUID(text).int == number
        assert uuid.UUID(text).version == 4
        assert uuid.UUID(text).variant == uuid.RFC_4122
    # Every bit but the six of version and variant.
    ever = functools.reduce(operator.or_, numbers)
    always = functools.reduce(operator.and_, numbers)
    assert (ever & ~always).bit_count() == 122


@given(st.uuids())
def test_a_uuid_is_a_number(id: uuid.UUID) -> None:
    assert id_from_text(str(id)) == id.int


@given(st.text() | st.uuids().map(lambda id: str(id).upper()))
def test_any_text_remains_what_it_is(text: str) -> None:
    assert id_as_text(id_from_text(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "00000000000000000000000000000007",
        "f" * 36,
        "-" * 36,
        "{00000000-0000-0000-0000-000000000007}",
        "0000_000-0000-0000-0000-000000000007",
        "00000000-0000-0000-0000-00000000000٧",
        "-0000000-0000-0000-0000-000000000007",
    ],
)
def test_only_a_uuid_in_its_usual_form_is_a_number(text: str) -> None:
    assert id_from_text(text) == text
