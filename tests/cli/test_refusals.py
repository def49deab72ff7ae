"""The commands tell why an event still waits, from its first refusal on."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector import Outcome
from flask_eventcollector.delivery.entries import Row
from flask_eventcollector.delivery.refusals import MOST_REFUSALS, Refusal, Refusals
from flask_eventcollector.events import Target
from flask_eventcollector.stores.spool.destination import Destination
from flask_eventcollector.stores.spool.folder import Folder
from flask_eventcollector.stores.spool.refusals import KnownRefusals, RefusalsFile
from tests.cli.support import FlaskEvents
from tests.helpers import Shop, open_shop, wait_until
from tests.parts import Desk
from tests.spool.support import leave as leave_file

WORKER = """
import sys
from tests.cli.shop_app import app, events
from flask_eventcollector.testing import FaultInjector

FaultInjector.of(events.broker).refuse("orders")
with app.app_context():
    for number in range(2):
        with events.auto_publish():
            print(events.enqueue_event(number, "orders").id, flush=True)
sys.stdin.read()
"""
REASON = "no queue 'orders'"
BEHIND = f"behind an event that was refused: {REASON}"


@pytest.fixture
def flask_events(tmp_path: Path) -> FlaskEvents:
    flask_events = FlaskEvents(tmp_path / "spool", "memory://")
    flask_events.environment |= {
        "FLASK_EVENTCOLLECTOR_RETRY_DELAY": "3600",
        "FLASK_EVENTCOLLECTOR_RETRY_MAX_DELAY": "3600",
        "FLASK_EVENTCOLLECTOR_TESTING_BROKER": "true",
    }
    return flask_events


def listed(flask_events: FlaskEvents) -> list[dict[str, Any]]:
    output = flask_events("list", "--json").stdout
    return [json.loads(line) for line in output.splitlines()]


def test_a_refused_event_shows_its_reason_while_it_waits(
    flask_events: FlaskEvents,
) -> None:
    with flask_events.python(WORKER) as worker:
        assert worker.stdout
        refused, behind = (worker.stdout.readline().strip() for _ in range(2))

        def tells() -> bool:
            return [event["reason"] for event in listed(flask_events)] == [
                REASON,
                BEHIND,
            ]

        wait_until(tells, "the reasons are beside the file")
        shown = flask_events.json("show", refused)
        text = flask_events("show", refused).stdout
        table = flask_events("list").stdout
        waits = flask_events.json("show", behind)

    assert (shown["attempts"], shown["reason"]) == (1, REASON)
    assert 0 < shown["next_try"] <= 3600
    assert shown["last_try"].endswith("+00:00")
    assert f"reason    {REASON}" in text
    assert "sent      1 time, the last time" in text
    assert re.search("next try  (in|now)", text)
    assert REASON in table
    assert "TRIES" in table
    assert (waits["attempts"], waits["last_try"]) == (None, None)

    # The process was killed: its last words are still there, but no next attempt.
    alone = flask_events.json("show", refused)
    assert (alone["reason"], alone["next_try"]) == (REASON, None)


def test_waiting_events_are_selected_by_the_reason_that_list_shows(
    flask_events: FlaskEvents,
) -> None:
    with flask_events.python(WORKER) as worker:
        assert worker.stdout
        refused, behind = (worker.stdout.readline().strip() for _ in range(2))
        wait_until(lambda: refusals_of(flask_events.folder), "the reason is there")
        wait_until(lambda: len(listed(flask_events)) == 2, "both are on disk")

    assert refused in flask_events("list", "--reason", "no queue*").stdout
    assert "No events are selected" in flask_events("list", "--reason", "x").stdout
    assert "No events are" in flask_events("retry", "--reason", "no queue").stdout
    assert "No events are" in flask_events("purge", "--reason", "x", "--yes").stdout
    flask_events("purge", "--reason", "no queue*", "--yes")
    assert [event["id"] for event in listed(flask_events)] == [behind] != [refused]
    flask_events("purge", "--reason", "no queue", "--yes")
    assert listed(flask_events) == []


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(
        BROKER_URL="memory://",
        BACKLOG="spool",
        SPOOL_DIR=str(tmp_path),
        TESTING_BROKER=True,
        RETRY_DELAY=3600,
        RETRY_MAX_DELAY=3600,
    ) as shop:
        yield shop


def refusals_of(folder: Path) -> list[Path]:
    return [*folder.glob("*.refusals")]


def test_an_event_that_is_accepted_at_last_leaves_nothing(
    shop: Shop, tmp_path: Path
) -> None:
    shop.faults.refuse("q")
    shop.enqueue("a")
    shop.events.publish()
    wait_until(lambda: refusals_of(tmp_path), "the refusal is beside the file")
    (path,) = refusals_of(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    shop.faults.accept("q")
    assert shop.events.flush(10)

    wait_until(lambda: not refusals_of(tmp_path), "it is gone")
    shop.events.close(5)
    assert [*tmp_path.iterdir()] == []


def test_a_disk_that_fails_is_no_trouble(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def fail(source: object, target: object) -> None:
        asked.append(target)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    shop.faults.refuse("q")
    shop.enqueue("a")
    shop.events.publish()
    wait_until(lambda: asked, "the refusals are written")
    shop.faults.accept("q")

    assert shop.events.flush(10)
    assert shop.events.stats().spool_error == ""


Leave = Callable[[Path], object]


@pytest.mark.parametrize(
    "leave",
    [
        lambda path: path.write_bytes(b"\xff\x00"),
        lambda path: path.write_text("[{}]"),
        lambda path: path.write_text("7"),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("/etc/passwd"),
    ],
)
def test_what_no_process_of_this_library_has_left_is_ignored(
    tmp_path: Path, leave: Leave
) -> None:
    leave(tmp_path / "shop@1.spool.refusals")

    known = KnownRefusals([tmp_path / "shop@1.spool"])

    assert known.of("any", Target("", "q")) is None


def test_the_latest_refusal_of_a_target_counts(tmp_path: Path) -> None:
    def refusal(id: str, last_try: float) -> dict[str, Any]:
        return Refusal(id, "", "q", f"no {id}", 1, last_try, None)._asdict()

    for name, row in (("a", refusal("new", 2)), ("b", refusal("old", 1))):
        (tmp_path / f"{name}.refusals").write_text(json.dumps([row]))
    known = KnownRefusals([tmp_path / "a", tmp_path / "b"])

    before = known.of("any", Target("", "q"))
    assert before is not None
    assert before.reason == "no new"
    assert before.reason_for("new") == "no new"
    assert before.reason_for("any") == "behind an event that was refused: no new"


def test_a_bounded_number_of_refusals_is_kept() -> None:
    desk, refusals = Desk(max_events=10_000), Refusals()
    letters = [chr(1000 + number) for number in range(MOST_REFUSALS + 5)]
    for letter in letters:
        desk.hand_over(letter)
        refusals.note(desk[letter], 0.0)

    kept = refusals.of(None, time.monotonic())
    assert len(kept) == MOST_REFUSALS
    assert kept[-1].id == desk[letters[-1]].event.id


def test_without_a_refusal_there_is_nothing_to_write() -> None:
    desk = Desk()
    desk.hand_over("a")
    desk.take()
    assert desk.ledger.refusals(None, 0) == (0, [])


def test_refusals_are_written_once_a_second_at_most(tmp_path: Path) -> None:
    desk, path = Desk(), tmp_path / "file"
    beside = RefusalsFile(path, None)
    written = Path(f"{path}.refusals")
    desk.hand_over("a")
    for attempt in (1, 2):
        desk.ledger.reopen()
        desk.take()
        desk.settle("a", Outcome.NACKED, reason=f"no {attempt}")
        beside.write(desk.ledger)

    assert "no 1" in written.read_text()
    beside.write(desk.ledger, at_last=True)
    assert "no 2" in written.read_text()

    desk.ledger.purge([desk["a"].event.id])
    beside.write(desk.ledger, at_last=True)
    assert not written.exists()


def test_what_an_earlier_owner_has_left_stays_until_there_is_news(
    tmp_path: Path,
) -> None:
    desk, path = Desk(), tmp_path / "file"
    left = Path(f"{path}.refusals")
    left.write_text("[]")
    desk.hand_over("a")
    desk.take()
    desk.settle("a", Outcome.NACKED, reason="no")
    desk["a"].row = Row("elsewhere", 1)

    RefusalsFile(path, None).write(desk.ledger)

    assert left.read_text() == "[]"


def test_who_adopts_a_file_tells_of_its_events(shop: Shop, tmp_path: Path) -> None:
    folder = Folder(tmp_path, "shop", Destination(("memory://",)))
    shop.faults.refuse("q")
    path = leave_file(tmp_path, ["a"], destination=folder.destination)

    shop.events.flush(10)

    wait_until(lambda: refusals_of(tmp_path), "the refusal is beside the file")
    assert refusals_of(tmp_path) == [Path(f"{path}.refusals")]
    shop.faults.accept("q")
    assert shop.events.flush(10)
    wait_until(lambda: not refusals_of(tmp_path), "it is gone with the file")
