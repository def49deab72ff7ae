"""The dashboard of an app with a spool, with an outbox, and with both."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector import TargetProblem
from flask_eventcollector.app_state import AppState
from flask_eventcollector.backlog.outbox import NO_RELAY
from flask_eventcollector.dashboard import listing
from flask_eventcollector.events import Properties, Target
from flask_eventcollector.stores.spool import rows as rows_module
from flask_eventcollector.stores.spool.admin import reading
from flask_eventcollector.stores.spool.journal import Journal
from flask_eventcollector.stores.spool.rows import StoredEvent
from flask_eventcollector.stores.sums import TargetSum, summed
from tests.spool.support import ELSEWHERE, HERE, dead_rows, leave

from .support import Desk, open_desk, readable
from .test_overview import other

SPOOL: dict[str, Any] = {
    "BACKLOG": "spool",
    "BROKER_URL": HERE.addresses[0],
    "TESTING_BROKER": True,
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A desk whose process takes over nothing that others have left."""
    monkeypatch.setattr(AppState, "delivery_with_orphans", lambda state: None)
    with open_desk(None, SPOOL_DIR=str(tmp_path), **SPOOL) as desk:
        yield desk


def test_what_dead_processes_have_left_is_shown(desk: Desk, tmp_path: Path) -> None:
    leave(tmp_path, ["a", "b"])
    path = leave(tmp_path, ["c"], "r")
    assert desk.ids() == ["a", "b", "c"]
    page = desk.shown()
    assert "Where they wait" in page
    assert path.name in page
    assert "q 2 0" in page
    assert "r 1 0" in page
    assert str(path) in desk.shown("event", id="c")


ALONE = f"These are the events of process {os.getpid()}, which has answered"
IN_MEMORY = f"Waiting by target in the memory of process {os.getpid()}"


def test_it_is_said_whose_memory_is_shown() -> None:
    with open_desk() as desk:
        page = desk.shown()
        assert f"{IN_MEMORY} Nothing waits" in page
        assert "Of what other workers hold in memory, nothing is known to it" in page
        assert ALONE in desk.shown("events")
        desk.die()
        assert f"{ALONE}. Other workers list their own" in desk.shown("events")
        assert ALONE in readable(desk.post(action="purge", every="1").text)


@pytest.mark.parametrize(("ids", "them"), [(["a"], "it"), (["a", "b"], "them")])
def test_what_is_not_found_may_be_in_another_workers_memory(
    ids: list[str], them: str
) -> None:
    with open_desk() as desk:
        desk.die()
        gone = desk.done(action="purge", id=ids, agreed="1")
    assert f"Or another worker holds {them} in its memory: process" in gone


def test_with_history_the_problems_of_other_workers_are_known(tmp_path: Path) -> None:
    with open_desk(HISTORY_DIR=str(tmp_path)) as desk:
        page = desk.shown()
    assert "in memory, only targets with a problem are known to it" in page


def test_with_a_spool_nothing_is_said_of_memory(desk: Desk, tmp_path: Path) -> None:
    leave(tmp_path, ["a"])
    for page in ("", "events"):
        assert "which has answered" not in desk.shown(page)
        assert "in memory" not in desk.shown(page)
    gone = desk.done(action="purge", id="nobody", agreed="1")
    assert "1 event had gone before: delivered, or dropped. Back" in gone


def test_a_reason_is_found_behind_many_events(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, range(6_000))
    with closing(Journal.open(leave(tmp_path, []))) as journal:
        journal.write(dead_rows(["last"]))
    read = counted(monkeypatch)
    assert desk.ids(text="no") == ["last"]
    assert desk.ids(text="other reason") == []
    assert [row[3] for row in read] == [b"last"]


@pytest.mark.parametrize("what", [{"destination": ELSEWHERE}, {"app": "billing"}])
def test_an_app_that_leaves_events_alone_is_not_well(
    desk: Desk, tmp_path: Path, what: dict[str, Any]
) -> None:
    assert "All is well" in desk.shown()
    leave(tmp_path, ["a"], **what)
    page = unescape(desk.shown())
    assert "Needs attention" in page
    assert "Nobody sends some events: see 'flask events status'" in page


def test_what_is_left_alone_is_named(desk: Desk, tmp_path: Path) -> None:
    leave(tmp_path, ["a"], destination=ELSEWHERE)
    leave(tmp_path, ["b"], app="billing")
    page = desk.shown()
    assert "1 file for another broker" in page
    assert "Events of billing, an app without a process" in page
    assert desk.ids() == []


def test_what_can_not_be_read_is_told(desk: Desk, tmp_path: Path) -> None:
    path = leave(tmp_path, ["a"])
    path.write_bytes(path.read_bytes()[:4096].replace(b"events", b"evints") * 2)
    for page in ("", "events"):
        text = desk.shown(page)
        assert "Not everything can be read" in text
        assert f"{path.name}: it is damaged" in text


def test_how_much_is_in_what_can_not_be_read_is_not_said(
    desk: Desk, tmp_path: Path
) -> None:
    path = leave(tmp_path, ["a"])
    path.write_bytes(path.read_bytes()[:4096].replace(b"events", b"evints") * 2)
    page = desk.shown()
    assert re.search(rf"{re.escape(path.name)} .* \? \? - \d", page)
    assert "Needs attention" in page
    assert "All is well" not in page
    for text in (page, desk.shown("events")):
        assert "Nothing that can be read waits or is dead" in text


def test_an_unknown_event_may_be_in_what_can_not_be_read(
    desk: Desk, tmp_path: Path
) -> None:
    path = leave(tmp_path, ["a"])
    path.write_bytes(path.read_bytes()[:4096].replace(b"events", b"evints") * 2)
    gone = leave(tmp_path, ["b"])
    gone.rename(f"{gone}.quarantined")
    other = leave(tmp_path, ["c"], destination=ELSEWHERE)
    response = desk.get("event", id="a")
    assert response.status_code == 404
    for name in (path.name, f"{gone.name}.quarantined", other.name):
        told = f"It may be in what was not read: {name}"
        assert response.text.count(told) == 1


def test_how_many_are_delayed_is_said_where_they_wait(
    desk: Desk, tmp_path: Path
) -> None:
    leave(tmp_path, ["a"])
    assert "Delayed" not in desk.shown()
    leave(tmp_path, ["b"], properties=Properties(delay=3600))
    page = desk.shown()
    assert "Place Owner Waiting Delayed Dead Oldest Size" in page
    assert re.search(r"\(gone\) 1 1 0 ", page)


def test_what_two_stores_hold_is_summed() -> None:
    target = Target("", "q")
    one = TargetSum(target, 1, 2, 30, "full", 3, 9.0)
    other = TargetSum(target, 10, 20, None)
    both = TargetSum(target, 11, 22, 30, "full", 3, 9.0)
    assert summed([other, one]) == summed([one, other]) == [both]
    assert summed([one, TargetSum(Target("", "r"), 9, 0, 1)])[1] == one


def test_a_folder_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with open_desk(None, SPOOL_DIR=str(folder), **SPOOL) as desk:
        folder.write_text("no folder")
        assert desk.get("events").status_code == 200


def test_the_files_of_ended_processes_are_changed(desk: Desk, tmp_path: Path) -> None:
    leave(tmp_path, ["a", "b", "c"])
    desk.done(action="purge", id="a", agreed="1")
    desk.done(action="redirect", id="b", queue="r", agreed="1")
    assert desk.ids() == ["b", "c"]
    assert desk.ids(target="r") == ["b"]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The rows that are read from now on."""
    read: list[Any] = []

    def read_row(row: tuple[Any, ...]) -> StoredEvent:
        read.append(row)
        return rows_module.read_row(row)

    monkeypatch.setattr(reading, "read_row", read_row)
    return read


def test_a_page_reads_few_of_many_events(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, range(2_000))
    read = counted(monkeypatch)
    assert len(desk.ids()) == listing.PAGE
    assert len(read) <= 100
    assert "q 2 000 0" in desk.shown()
    assert len(read) <= 100


@pytest.mark.slow
def test_a_page_of_100_000_events_is_bounded(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, range(100_000))
    read = counted(monkeypatch)
    queries: list[dict[str, Any]]
    queries = [{}, {"state": "dead"}, {"target": "q"}, {"page": 100}, {"text": "no"}]
    for query in queries:
        read.clear()
        desk.page("events", **query)
        assert len(read) <= listing.PAGE * listing.LAST_PAGE + 100
    assert "q 100 000 0" in desk.shown()


# The outbox.


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("sqlalchemy")
    from tests.cli.test_outbox import Command, sqlite_in
    from tests.outbox.support import Place

    place = Place(sqlite_in(tmp_path))
    settings: dict[str, Any] = {"BROKER_URL": "memory://", "BACKLOG": "memory"}
    settings |= {"TESTING_BROKER": True, "OUTBOX_RELAY": "external"}
    settings["HISTORY_DIR"] = str(tmp_path / "history")
    try:
        with open_desk(None, **settings) as desk:
            command = Command(desk.shop, place)
            command.fill()
            yield desk, command
    finally:
        place.close()


def test_the_rows_of_the_outbox_are_shown(place: tuple[Desk, Any]) -> None:
    desk, command = place
    assert [id.rstrip("-") for id in desk.ids()] == command.ids()
    assert [id.rstrip("-") for id in desk.ids(state="dead")] == ["dead"]
    assert len(desk.ids(state="waiting")) == 3
    assert len(desk.ids(target="bills")) == 1
    page = desk.shown()
    assert "Outbox no relay 3 1 1" in page
    assert "bills 0 1" in page
    assert "never" in page
    assert "q 3 0" in page
    assert f"{IN_MEMORY} and the outbox" in page
    assert f"{ALONE}, and the rows of the outbox" in desk.shown("events")
    # One of them is delayed for an hour.
    assert re.search(r"q 3 0 \d+ s - in (59 min|1 h)", page)


def test_the_rows_of_the_outbox_are_changed(place: tuple[Desk, Any]) -> None:
    desk, command = place
    (dead,) = desk.ids(state="dead")
    assert "1 event sent again" in desk.done(action="retry", id=dead)
    assert "1 event dropped" in desk.done(action="purge", id=dead, agreed="1")
    assert len(command.ids()) == 3


def test_how_to_move_a_row_that_a_process_holds_is_said(
    place: tuple[Desk, Any],
) -> None:
    desk, _ = place
    fields: dict[str, Any] = {"action": "redirect", "queue": "r"}
    text = readable(desk.post(**fields, every="1", agreed="1").text)
    assert "the process that holds it is just sending it, or does not respond." in text
    assert "stop it first, such as the relay, which gives them back then" in text


def test_it_is_said_that_no_relay_is_active(place: tuple[Desk, Any]) -> None:
    desk, command = place
    page = desk.shown()
    assert NO_RELAY in unescape(page)
    assert NO_RELAY in command("status").stdout
    assert command.place.leadership("r1", app="shop").lead()
    page = desk.shown()
    assert "Outbox process r1 3" in page
    assert NO_RELAY not in unescape(page)


def test_rows_wait_for_the_reason_that_the_relay_has_told(
    place: tuple[Desk, Any], tmp_path: Path
) -> None:
    desk, _ = place
    problem = TargetProblem("q", "", 1, "the queue is full", 3, 1.0, 9.0)
    other(tmp_path / "history", 1, problems=(problem,))
    assert re.search(r" q 3 0 \d+ s 3 in \d+ s the queue is full", desk.shown())


def test_an_outbox_that_can_not_be_read_is_told(place: tuple[Desk, Any]) -> None:
    desk, command = place
    command.place.table.drop(command.place.engine)
    for page in ("", "events"):
        assert "Not everything can be read" in desk.shown(page)


def test_its_connections_are_closed(
    place: tuple[Desk, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flask_eventcollector.stores.outbox.database import Database

    closed: list[Database] = []
    close = Database.close

    def note(database: Database) -> None:
        closed.append(database)
        close(database)

    monkeypatch.setattr(Database, "close", note)
    place[0].page("events")
    assert len(closed) == 1
