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
