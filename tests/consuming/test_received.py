"""``received()`` reads the properties of a message."""

from __future__ import annotations

import dataclasses
import time
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from pika import BasicProperties

from flask_eventcollector import received

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
SECONDS = int(MOMENT.timestamp())


def properties(**changes: Any) -> BasicProperties:
    found = BasicProperties(message_id="7", timestamp=SECONDS)
    vars(found).update(changes)
    return found


def test_it_has_what_the_publisher_said() -> None:
    marked = {"x-possible-duplicate": True, "tenant": "a"}
    message = received(properties(headers=marked))

    assert (message.id, message.enqueued_at) == ("7", MOMENT)
    assert message.possible_duplicate
    assert message.headers == {"tenant": "a"}
    # What the caller has stays as it was.
    assert "x-possible-duplicate" in marked


@pytest.mark.parametrize("headers", [None, {}, {"x-possible-duplicate": False}])
def test_a_message_without_headers_is_not_marked(headers: dict[str, Any]) -> None:
    message = received(properties(headers=headers))

    assert not message.possible_duplicate
    assert message.headers == {}


def test_its_age_counts_from_enqueueing_and_is_never_negative() -> None:
    now = int(time.time())
    assert 60 <= received(properties(timestamp=now - 60)).age < 120  # type: ignore[operator]
    # Another machine's clock may be ahead.
    assert received(properties(timestamp=now + 60)).age == 0


@pytest.mark.parametrize("timestamp", [None, 10**15, -(10**15)])
def test_a_time_that_is_missing_or_impossible_is_unknown(timestamp: int | None) -> None:
    message = received(properties(timestamp=timestamp))

    assert (message.enqueued_at, message.age) == (None, None)


@pytest.mark.parametrize("moment", [MOMENT, MOMENT.replace(tzinfo=None)])
def test_clients_that_convert_the_time_are_understood(moment: datetime) -> None:
    message = SimpleNamespace(message_id="7", timestamp=moment, headers={})

    assert received(message).enqueued_at == MOMENT


def test_it_can_t_be_changed_and_does_not_show_headers() -> None:
    message = received(properties(headers={"token": "secret"}))

    with pytest.raises(dataclasses.FrozenInstanceError):
        message.id = "8"  # type: ignore[misc]
    with pytest.raises(TypeError):
        message.headers["a"] = 1  # type: ignore[index]
    assert "secret" not in repr(message)


@pytest.mark.parametrize("id", [None, ""])
def test_a_message_without_an_id_is_refused(id: str | None) -> None:
    with pytest.raises(ValueError, match=r"no message_id.*: reject it"):
        received(properties(message_id=id))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"message_id": "7"}, r"dict has no message_id: pass .* BasicProperties"),
        (properties(message_id=7), "message_id is of type int"),
        (properties(headers=["a"]), "headers are of type list"),
        (properties(timestamp="today"), "timestamp is of type str"),
        (properties(timestamp=True), "timestamp is of type bool"),
    ],
)
def test_what_is_no_message_is_refused(given: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        received(given)


# What else it says.

EXTRA = {
    "type": "order.created",
    "correlation_id": "order-7",
    "reply_to": "answers",
    "priority": 5,
    "content_type": "application/json",
    "content_encoding": "utf-8",
}


def test_it_has_what_the_event_says_about_itself() -> None:
    message = received(properties(**EXTRA, expiration="1500"))

    assert {name: getattr(message, name) for name in EXTRA} == EXTRA
    assert message.expires_in == 1.5


def test_what_a_message_does_not_say_is_none() -> None:
    message = received(SimpleNamespace(message_id="7", timestamp=None, headers=None))

    assert {getattr(message, name) for name in (*EXTRA, "expires_in")} == {None}
    batch = (message.batch_id, message.batch_index, message.batch_size)
    assert batch == (None, None, None)
    assert (message.attributes, message.headers) == ({}, {})


def test_what_another_publisher_says_in_another_type_is_none() -> None:
    wrong = {name: ["x"] for name in EXTRA}
    message = received(properties(**wrong, expiration="soon"))

    assert {getattr(message, name) for name in (*EXTRA, "expires_in")} == {None}


@pytest.mark.parametrize("expiration", [1.5, "1500"])
def test_clients_that_convert_the_expiration_are_understood(expiration: object) -> None:
    assert received(properties(expiration=expiration)).expires_in == 1.5


def test_it_has_its_place_in_the_batch() -> None:
    batch = {"x-batch-id": "b", "x-batch-index": 0, "x-batch-size": 2}
    message = received(properties(headers={**batch, "tenant": "a"}))

    found = (message.batch_id, message.batch_index, message.batch_size)
    assert found == ("b", 0, 2)
    assert message.headers == {"tenant": "a"}


def test_headers_about_another_kind_of_batch_remain_headers() -> None:
    others = {"x-batch-id": 7, "x-batch-index": True, "x-batch-size": -1}
    message = received(properties(headers=others))

    found = (message.batch_id, message.batch_index, message.batch_size)
    assert found == (None, None, None)
    assert message.headers == others


# CloudEvents.

ABOUT = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order"}


def prefixed(prefix: str, **more: Any) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in {**ABOUT, **more}.items()}


@pytest.mark.parametrize("prefix", ["ce-", "CE-", "cloudEvents_", "cloudEvents:"])
def test_it_has_the_attributes_of_a_cloudevent(prefix: str) -> None:
    headers = prefixed(prefix, time="2026-01-02T03:04:05.123456789Z", retries="3")
    message = received(
        properties(headers={**headers, "tenant": "a"}, content_type="text/csv")
    )

    moment = MOMENT.replace(microsecond=123456)
    more = {"time": moment, "retries": "3", "datacontenttype": "text/csv"}
    assert message.attributes == {**ABOUT, **more}
    assert message.headers == {"tenant": "a"}
    assert "/shop" not in repr(message)
    with pytest.raises(TypeError):
        message.attributes["a"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("2026-01-02t03:04:05z", MOMENT),
        ("2026-01-02T04:04:05.0+01:00", MOMENT),
        ("2026-01-02T03:04:05.5Z", MOMENT.replace(microsecond=500_000)),
        (MOMENT, MOMENT),
        (MOMENT.replace(tzinfo=None), MOMENT),
        ("yesterday", "yesterday"),
        ("2026-13-02T03:04:05Z", "2026-13-02T03:04:05Z"),
        (7, 7),
    ],
    ids=[
        "lower case",
        "zone",
        "fraction",
        "aware",
        "naive",
        "text",
        "no month",
        "number",
    ],
)
def test_the_time_of_a_cloudevent_is_read_if_it_can_be(sent: Any, read: Any) -> None:
    message = received(properties(headers=prefixed("ce-", time=sent)))

    assert message.attributes["time"] == read
    assert "datacontenttype" not in message.attributes


def test_headers_that_make_no_cloudevent_remain_headers() -> None:
    headers = {"ce-id": "7", "ce-type": "order", 5: "five"}
    message = received(properties(headers=headers))

    assert message.attributes == {}
    assert message.headers == headers
