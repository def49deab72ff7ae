"""What an operator can do there: retry, redirect, purge."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector.dashboard import changing
from flask_eventcollector.dashboard.places import Places
from flask_eventcollector.stores.spool.admin.reading import Gone, Unreadable
from tests.helpers import Recorder, wait_until

from .support import Desk, open_desk


@pytest.fixture(params=["memory", "spool"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """A desk with each kind of backlog."""
    settings: dict[str, Any] = {"BACKLOG": request.param}
    if request.param == "spool":
        settings |= {"BROKER_URL": "memory://", "TESTING_BROKER": True}
        settings["SPOOL_DIR"] = str(tmp_path)
    with open_desk(None, **settings) as desk:
        yield desk


def settled(desk: Desk, **books: int) -> None:
    wait_until(lambda: desk.shop.books() == books, f"the books are {books}")


def test_a_dead_event_is_retried(desk: Desk) -> None:
    event = desk.die("again")
    desk.shop.faults.accept("q")
    assert "1 event sent again" in desk.done(action="retry", id=event.id)
    settled(desk, confirmed=1)
    assert desk.shop.sent() == ["again"]


def test_to_retry_twice_sends_it_once(desk: Desk) -> None:
    event = desk.die()
    desk.shop.faults.accept("q")
    desk.done(action="retry", id=event.id)
    settled(desk, confirmed=1)
    again = desk.done(action="retry", id=event.id)
    assert "0 events sent again" in again
    assert "1 event had gone before: delivered, or dropped." in again
    assert desk.shop.books() == {"confirmed": 1}


def test_what_waits_is_not_retried(desk: Desk) -> None:
    desk.leave(0)
    desk.shop.faults.go_down()
    event = desk.leave(1)
    text = desk.done(action="retry", id=event.id)
    assert "0 events sent again" in text
    assert "1 event left as before: not dead, so being sent anyway" in text


def test_a_purge_is_asked_about_first(desk: Desk) -> None:
    events = [desk.die(1), desk.die(2), desk.die(3, "r")]
    ids = [event.id for event in events]
    question = desk.post(action="purge", id=ids)
    assert "Drop 3 events for good?" in question.text
    assert "2 events for q" in question.text
    assert "1 event for r" in question.text
    assert desk.shop.books() == {"dead": 3}
    with Recorder(desk.shop) as recorder:
        answer = desk.done(action="purge", id=ids[:2], agreed="1")
    assert "2 events dropped" in answer
    settled(desk, dead=1, dropped=2)
    assert recorder.heard("events_dropped")


def test_an_event_goes_to_another_queue(desk: Desk) -> None:
    event = desk.die("moved")
    question = desk.post(action="redirect", id=event.id, queue=" r ")
    assert "Send 1 event to r?" in question.text
    assert desk.shop.books() == {"dead": 1}
    answer = desk.done(action="redirect", id=event.id, queue="r", agreed="1")
    assert "1 event sent to r" in answer
    settled(desk, confirmed=1)
    assert desk.shop.sent("r") == ["moved"]


def test_enter_in_the_field_for_the_queue_means_to_send_there(desk: Desk) -> None:
    event = desk.die()
    assert "Send 1 event to r?" in desk.post(id=event.id, queue="r").text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"action": "retry"}, "choose one event at least"),
        ({"action": "", "id": "1"}, "choose an action"),
        ({"action": "explode", "id": "1"}, "choose an action"),
        ({"action": "redirect", "id": "1"}, "give the name of the queue"),
        ({"action": "redirect", "id": "1", "queue": "q" * 300}, "255"),
    ],
    ids=["no event", "no action", "unknown action", "no queue", "long queue"],
)
def test_what_is_incomplete_is_told(fields: dict[str, Any], text: str) -> None:
    with open_desk() as desk:
        desk.die()
        response = desk.post(**fields)
        assert response.status_code == 400
        assert text in response.text


def test_all_that_meet_the_filter_are_asked_about(desk: Desk) -> None:
    for number in range(3):
        desk.die(number)
    desk.die(9, "r")
    fields: dict[str, Any] = {"action": "retry", "every": "1", "target": "q"}
    assert "Send 3 events again?" in desk.post(**fields).text
    desk.shop.faults.accept("q")
    assert "3 events sent again" in desk.done(**fields, agreed="1")
    settled(desk, confirmed=3, dead=1)


def test_all_are_some_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changing, "MOST_CHANGED", 2)
    with open_desk() as desk:
        ids = [desk.die(number).id for number in range(3)]
        text = desk.post(action="purge", every="1").text
        assert "Drop 2 events for good?" in text
        assert "These are the first 2; there may be more." in text
        assert "2 events dropped" in desk.done(action="purge", every="1", agreed="1")
        assert desk.ids() == ids[2:]


def test_what_came_after_the_question_is_not_changed(desk: Desk) -> None:
    desk.die(1)
    desk.die(2)
    question = desk.post(action="purge", every="1").text
    assert "Drop 2 events for good?" in question
    (until,) = re.findall('name="until" value="([0-9]+)"', question)
    later = desk.die(3)
    agreed = {"action": "purge", "every": "1", "agreed": "1"}
    assert "2 events dropped" in desk.done(**agreed, until=until)
    assert desk.ids() == [later.id]


def test_nothing_is_left_to_ask_about(desk: Desk) -> None:
    event = desk.die()
    desk.done(action="purge", id=event.id, agreed="1")
    assert "There is none any more" in desk.post(action="purge", every="1").text


# What can't be changed.


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Gone(), "1 event had gone before"),
        (Unreadable("a.spool", "it is damaged"), "a.spool: it is damaged"),
    ],
    ids=["gone", "unreadable"],
)
def test_what_fails_is_told(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(Places, "change", fail)
    with open_desk() as desk:
        event = desk.die()
        assert text in desk.done(action="purge", id=event.id, agreed="1")


# The log.


def test_each_action_is_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    ids = [desk.die(number).id for number in range(2)]
    caplog.clear()
    desk.done(action="redirect", id=ids, queue="r", agreed="1")
    record = next(r for r in caplog.records if r.msg.startswith("Dashboard"))
    assert record.getMessage() == "Dashboard: ann asked to redirect 2 events to r."
    assert record.levelno == logging.WARNING
    about = vars(record)
    assert about["eventcollector_user"] == "ann"
    assert about["eventcollector_action"] == "redirect"
    assert about["eventcollector_queue"] == "r"
    assert about["eventcollector_ids"] == " ".join(ids)
    assert about["eventcollector_count"] == 2


def test_who_has_no_name_is_logged_by_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_desk({"authorize": lambda: True}) as desk:
        event = desk.die()
        desk.done(action="retry", id=event.id)
    assert "Dashboard: somebody at 127.0.0.1 asked to retry 1 event." in caplog.messages


def test_a_question_is_not_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.post(action="purge", id=desk.die().id)
    assert not [text for text in caplog.messages if text.startswith("Dashboard")]


def test_names_can_not_forge_lines_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_desk({"authorize": lambda: "ann\nERROR"}) as desk:
        desk.die()
        desk.done(action="redirect", id="a\nb", queue="r\nr", agreed="1")
    (text,) = [text for text in caplog.messages if text.startswith("Dashboard")]
    assert "\n" not in text
