"""What is published after the last flush is kept or dropped, counted and logged."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector import PublishResult, events_dropped
from flask_eventcollector.stores.spool.journal import Journal
from tests.helpers import DEADLINE, Recorder, Shop, in_thread, open_shop, thread
from tests.spool.support import failing, stored
from tests.test_no_threads import no_thread_for

LATE = "Dropped 1 event for q: published after the last flush."
ENQUEUED = (
    "Enqueued 1 event for q: after close() or the last flush; once published, it stays"
    " in the spool, or is dropped."
)
LEFT = "Left 1 event in the spool for the next process."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def spooling_shop(folder: Path) -> Any:
    return open_shop(
        BROKER_URL="memory://",
        TESTING_BROKER=True,
        BACKLOG="spool",
        SPOOL_DIR=str(folder),
    )


@pytest.fixture(params=["memory", "spool"])
def shop(request: pytest.FixtureRequest, folder: Path) -> Iterator[Shop]:
    with spooling_shop(folder) if request.param == "spool" else open_shop() as shop:
        yield shop


@pytest.fixture
def spooling(folder: Path) -> Iterator[Shop]:
    with spooling_shop(folder) as shop:
        yield shop


def close(shop: Shop, *payloads: Any) -> None:
    """Close the delivery after it has sent these."""
    with shop.events.auto_publish():
        shop.enqueue(*payloads)
    assert shop.events.close(DEADLINE)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


# In memory


def test_it_is_dropped_and_the_result_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with open_shop() as shop, Recorder(shop) as recorder:
        close(shop, "in time")
        shop.enqueue("late")
        assert shop.events.publish() == PublishResult(dropped=1)
        assert recorder.one("events_dropped").payloads == ["late"]
        assert shop.books() == {"confirmed": 1, "dropped": 1}
    assert lines(caplog) == [ENQUEUED, LATE]


def test_each_one_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with open_shop() as shop:
        close(shop, "in time")
        for number in range(3):
            with shop.events.auto_publish():
                shop.enqueue(number)
        assert shop.books() == {"confirmed": 1, "dropped": 3}
    assert [line for line in lines(caplog) if "Dropped" in line] == [LATE] * 3


def test_a_request_s_are_dropped_as_well(caplog: pytest.LogCaptureFixture) -> None:
    with open_shop() as shop:

        @shop.post("/")
        def order() -> str:
            shop.enqueue("late")
            return "done"

        close(shop, "in time")
        assert shop.test_client().post("/").status_code == 200
        assert shop.books() == {"confirmed": 1, "dropped": 1}
    assert LATE in lines(caplog)


def test_a_receiver_that_enqueues_at_each_drop_makes_no_endless_loop(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def enqueue_another(sender: object, **about: Any) -> None:
        with shop.events.auto_publish():
            shop.enqueue("another", queue="alerts")

    with events_dropped.connected_to(enqueue_another, sender=shop):
        close(shop, "in time")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Journal, "write", failing(sqlite3.OperationalError("full")))
            shop.enqueue("late")
            assert shop.events.publish().dropped == 1
            assert shop.books() == {"confirmed": 1, "dropped": 2}
    told = lines(caplog)
    assert LATE in told
    assert "Dropped 1 event for alerts: published after the last flush." in told


def test_a_receiver_that_enqueues_at_the_last_drop_is_told_its_fate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_shop() as shop:

        def enqueue_another(sender: object, **about: Any) -> None:
            with shop.events.auto_publish():
                shop.enqueue("another", queue="alerts")

        with events_dropped.connected_to(enqueue_another, sender=shop):
            shop.faults.go_down()
            with shop.events.auto_publish():
                shop.enqueue("first")
            assert not shop.events.close(0)
            assert shop.books() == {"dropped": 2}
    assert "Dropped 1 event for alerts: published after the last flush." in lines(
        caplog
    )


def test_what_another_thread_publishes_late_is_dropped_too(shop: Shop) -> None:
    close(shop, "in time")
    shop.faults.go_down()

    def work() -> None:
        shop.enqueue("late")
        result = shop.events.publish()
        assert result.retained + result.dropped == 1

    in_thread(work)
    assert sum(shop.books().values()) == 2
    assert not shop.books().get("collected")


# With the spool


def test_it_is_on_disk_and_the_next_process_sends_it(
    spooling: Shop, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    close(spooling, "in time")
    for late in ("late", "later"):
        with spooling.events.auto_publish():
            spooling.enqueue(late)
    assert spooling.books() == {"confirmed": 1, "retained": 2}
    assert spooling.events.stats().spooled == 2
    assert sorted(stored(folder)) == ["late", "later"]
    assert lines(caplog) == [ENQUEUED, LEFT] * 2

    with spooling_shop(folder) as heir:
        assert heir.events.flush(DEADLINE)
        assert sorted(heir.sent()) == ["late", "later"]


def test_what_a_destructor_publishes_in_the_middle_of_that_is_counted(
    spooling: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(spooling, "in time")
    write, payloads = Journal.write, ["destructor's"]

    def interrupted(journal: Journal, *args: Any) -> None:
        while payloads:
            with spooling.events.auto_publish():
                spooling.enqueue(payloads.pop())
        write(journal, *args)

    monkeypatch.setattr(Journal, "write", interrupted)
    with spooling.events.auto_publish():
        spooling.enqueue("late")

    # The file is in use just then.
    assert spooling.books() == {"confirmed": 1, "retained": 1, "dropped": 1}
    assert stored(folder) == ["late"]


def test_many_threads_may_publish_late(spooling: Shop, folder: Path) -> None:
    close(spooling, "in time")

    def work() -> None:
        for number in range(20):
            with spooling.events.auto_publish():
                spooling.enqueue(number)

    with ExitStack() as threads:
        for _ in range(4):
            threads.enter_context(thread(work))

    assert spooling.books() == {"confirmed": 1, "retained": 80}
    assert spooling.events.stats().spooled == 80
    assert sorted(stored(folder)) == sorted(list(range(20)) * 4)


def test_what_the_disk_does_not_take_is_dropped(
    spooling: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close(spooling, "in time")
    full = sqlite3.OperationalError("database or disk is full")
    monkeypatch.setattr(Journal, "write", failing(full))
    spooling.enqueue("late")
    assert spooling.events.publish() == PublishResult(dropped=1)
    assert LATE in lines(caplog)


def test_what_was_left_before_is_not_told_again(
    spooling: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    spooling.faults.go_down()
    with spooling.events.auto_publish():
        spooling.enqueue("in time")
    assert not spooling.events.close(0)
    assert LEFT in lines(caplog)
    caplog.clear()
    with spooling.events.auto_publish():
        spooling.enqueue("late")
    assert not spooling.events.close(0)
    assert lines(caplog) == [ENQUEUED, LEFT]


def test_without_any_thread_the_last_words_are_written_as_well(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with spooling_shop(folder) as shop, no_thread_for("eventcollector-"):
        shop.faults.go_down()
        with shop.events.auto_publish():
            shop.enqueue("kept")
        assert not shop.events.close(0)
        assert shop.books() == {"retained": 1}
    assert stored(folder) == ["kept"]
    assert LEFT in lines(caplog)


# At the end of a process

SCRIPT = """
import atexit, logging, sys

@atexit.register  # Registered before the library's own handler, so it runs after it.
def late():
    if "enqueue" in sys.argv:
        events.enqueue_event("late", "q")
        return
    with events.auto_publish():
        events.enqueue_event("late", "q")
    counts = events.stats().as_dict()
    print({k: counts[k] for k in ("retained", "dropped", "spooled") if counts[k]})

from flask import Flask
from flask_eventcollector import EventCollector

app = Flask("shop")
app.debug = True
app.config["EVENTCOLLECTOR_BROKER_URL"] = "memory://"
if "spool" in sys.argv:
    app.config["EVENTCOLLECTOR_BACKLOG"] = "spool"
    app.config["EVENTCOLLECTOR_SPOOL_DIR"] = sys.argv[1]
events = EventCollector(app)
if "used" in sys.argv:
    with events.auto_publish():
        events.enqueue_event("in time", "q")
"""


def run(folder: Path, *options: str) -> tuple[str, list[str]]:
    """What the script prints, and what the library logs."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(folder), *options],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0
    return ended.stdout, ended.stderr.splitlines()


@pytest.mark.parametrize("used", [["used"], []])
def test_a_late_exit_handler_s_event_is_dropped(folder: Path, used: list[str]) -> None:
    output, log = run(folder, *used)
    assert output == "{'dropped': 1}\n"
    assert log == [ENQUEUED, LATE]


@pytest.mark.parametrize("used", [["used"], []])
def test_a_late_exit_handler_s_event_is_left_in_the_spool(
    folder: Path, used: list[str]
) -> None:
    output, log = run(folder, "spool", *used)
    assert output == "{'retained': 1, 'spooled': 1}\n"
    assert log == [ENQUEUED, LEFT]
    assert stored(folder) == ["late"]


def test_an_event_that_is_never_published_is_told_of_at_least(folder: Path) -> None:
    output, log = run(folder, "used", "enqueue")
    assert output == ""
    assert log == [ENQUEUED]


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "flask_eventcollector")
