"""The command ``why``: the life of one event, where it is, and what comes next."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flask_eventcollector import Event, Outcome
from flask_eventcollector.backlog.story import Story
from flask_eventcollector.monitoring.history import records
from flask_eventcollector.monitoring.history.records import Line
from flask_eventcollector.monitoring.history.writer import HistoryWriter
from tests.cli.histories import (
    folder_of,
    killed,
    line,
    lines_of,
    next_of,
    published,
    run,
)
from tests.cli.support import FlaskEvents
from tests.helpers import Shop, open_shop, wait_until
from tests.parts import make_event
from tests.spool.support import ELSEWHERE, HERE, leave


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(HISTORY_DIR=str(tmp_path / "history"), DEAD_AFTER=3600) as shop:
        yield shop


def test_why_tells_the_whole_life(shop: Shop) -> None:
    id = published(shop, {"secret": "s3cr3t"})
    wait_until(lambda: "confirmed" in lines_of(shop, id), "confirmed")
    result = run(shop, "why", id[:8])
    assert result.exit_code == 0
    words = [line.split("  ")[2] for line in result.stdout.splitlines()[:-1]]
    assert words == ["enqueued", "handed over", "sent", "confirmed"]
    assert result.stdout.splitlines()[-1] == "Next: nothing: the broker has it"
    assert "s3cr3t" not in result.stdout


def test_why_names_the_refusal_and_what_comes_next(shop: Shop) -> None:
    shop.faults.refuse("q", Outcome.RETURNED)
    id = published(shop)
    result = run(shop, "why", id, "--json")
    assert result.exit_code == 3
    story = json.loads(result.stdout)
    failed = next(line for line in story["history"] if line["what"] == "failed")
    assert failed["outcome"] == "returned"
    assert story["next"] == f"process {os.getpid()} sends it once the broker takes it"
    assert story["now"].startswith("no queue 'q'")
    assert not story["lost"]


class Waiting(NamedTuple):
    state: str
    next_try: float | None = 5400.0
    is_left: bool = False
    event: Event = make_event(1, "q")
    reason: str | None = None


@pytest.mark.parametrize(
    ("state", "next_"),
    [("delayed", "it is sent in 1 h"), ("waiting", "it is sent again in 1 h")],
)
def test_only_what_was_sent_is_sent_again(state: str, next_: str) -> None:
    assert Story([], Waiting(state)).next == next_


def test_why_says_that_no_queue_gets_an_event(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "HISTORY_DIR": str(tmp_path / "history"),
        "EXCHANGES": {"shop": {"type": "topic", "unrouted": "discard"}},
        "QUEUES": {"orders": {"bind": ["shop:orders.#"]}},
    }
    with open_shop(**settings) as shop:
        event = shop.events.enqueue_event(1, "visits", exchange="shop")
        shop.events.publish()
        wait_until(lambda: "unrouted" in lines_of(shop, event.id), "its end")
        result = run(shop, "why", event.id)
    *_, last, next_ = result.stdout.splitlines()
    assert "after 0." in last
    assert next_ == "Next: nothing: the broker took it, and no queue gets it"
    assert result.exit_code == 0


def test_a_row_that_nobody_holds_needs_the_relay() -> None:
    left = Line.from_json('{"at": 1.0, "what": "outboxed", "ids": ["a"]}')
    assert Story([left], Waiting("waiting", None)).next == (
        "the relay sends its row of the outbox, or the process that holds it"
    )


def test_what_is_due_and_not_sent_waits_for_the_broker() -> None:
    """In an outage, its time comes and goes."""
    assert Story([], Waiting("waiting", 0.0)).next == (
        "its process sends it once the broker takes it"
    )


@pytest.mark.parametrize(
    ("end", "next_"),
    [
        ("clear", "Next: nothing: its unit of work failed, or took it back"),
        ("purge", "Next: nothing: it is lost"),
    ],
)
def test_why_says_what_an_end_means(shop: Shop, end: str, next_: str) -> None:
    event = shop.events.enqueue_event(1, "q")
    if end == "clear":
        shop.events.clear_events_to_publish()
    else:
        shop.faults.go_down()
        shop.events.publish()
        shop.events.purge([event.id])
    wait_until(
        lambda: lines_of(shop, event.id)[-1:] in (["discarded"], ["dropped"]), "its end"
    )
    result = run(shop, "why", event.id)
    assert result.stdout.splitlines()[-1] == next_
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("id", "text"),
    [
        ("abc", "too short"),
        ("0000-none", "Nothing is known about an event '0000-none'"),
        ("\x1b[31mred", "\\x1b[31mred"),
    ],
)
def test_why_needs_a_known_id(shop: Shop, id: str, text: str) -> None:
    published(shop)
    result = run(shop, "why", id)
    assert result.exit_code == 1
    assert text in result.stderr
    assert "\x1b" not in result.output


def test_why_without_history_says_what_to_set() -> None:
    with open_shop() as shop:
        result = run(shop, "why", "0000-none")
        assert result.exit_code == 1
        assert "if EVENTCOLLECTOR_HISTORY_DIR is set" in result.stderr


# Where it is now, and what comes next.


@pytest.mark.parametrize("what", ["enqueued", "handed over", "failed", "dead"])
def test_what_a_killed_process_had_in_its_memory_is_lost(shop: Shop, what: str) -> None:
    killed(folder_of(shop), line(what, "some-event"))
    told = next_of(shop, "some-event")
    assert told.startswith(
        "nothing: it is lost. Process 4711, which had it in its memory, is gone; it was"
        " last heard of at 20"
    )
    assert json.loads(run(shop, "why", "some-event", "--json").stdout)["lost"]


def test_the_broker_may_have_what_a_killed_process_has_sent(shop: Shop) -> None:
    killed(folder_of(shop), line("sent", "some-event"))
    told = next_of(shop, "some-event")
    assert told.startswith("nothing: the broker has it, or it is lost. Process 4711,")


@pytest.mark.parametrize("what", ["confirmed", "outboxed"])
def test_what_had_left_a_killed_process_is_not_lost(shop: Shop, what: str) -> None:
    killed(folder_of(shop), line(what, "some-event"))
    assert "lost" not in next_of(shop, "some-event", 0 if what == "confirmed" else 3)


def test_a_process_that_is_stopped_has_not_lost_its_events(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.faults.go_down()
    id = published(shop)
    monkeypatch.setattr(records, "SILENT_AFTER", 0.0)
    pid = os.getpid()
    assert next_of(shop, id) == (
        f"process {pid} sends it once the broker takes it; now: process {pid} has said"
        " nothing for 0 s: it is stopped, hangs, or can't write its counts"
    )


def test_the_present_trouble_of_the_process_is_told(shop: Shop) -> None:
    """Not that which it had when it kept the event."""
    shop.faults.go_down("no route to host")
    id = published(shop)
    shop.faults.go_down("login failed")
    now = "; now: the broker is down: login failed"
    wait_until(lambda: next_of(shop, id).endswith(now), "the counts")


def test_the_trouble_can_not_change_the_terminal(shop: Shop) -> None:
    shop.faults.go_down("\x1b[2Jgone")
    id = published(shop)
    now = r"; now: the broker is down: \x1b[2Jgone"
    wait_until(lambda: next_of(shop, id).endswith(now), "the counts")


def test_a_blocked_broker_is_told(shop: Shop) -> None:
    shop.faults.block()
    id = published(shop)
    wait_until(lambda: "; now: the broker is blocked" in next_of(shop, id), "counts")


def test_an_event_behind_a_refused_one_says_why_it_waits(shop: Shop) -> None:
    shop.faults.refuse("q", Outcome.RETURNED)
    published(shop)
    id = published(shop)
    wait_until(lambda: "now: no queue 'q'" in next_of(shop, id), "counts")


def test_a_delayed_event_in_memory_says_when_it_is_sent(shop: Shop) -> None:
    event = shop.events.enqueue_event(1, "q", delay=5400)
    shop.events.publish(0)
    wait_until(lambda: len(lines_of(shop, event.id)) == 2, "it is written down")
    assert next_of(shop, event.id) == "it is sent in 1 h"


def test_a_dead_event_in_memory_says_where_it_can_be_retried(shop: Shop) -> None:
    id = published(shop)
    writer = HistoryWriter(folder_of(shop), "shop")
    writer.begin()
    writer.write([line("dead", id, at=time.time() + 9)])
    assert next_of(shop, id) == "nothing, until process 4711 calls events.retry()"


# What can't be read, and what is not known.


@pytest.fixture
def spooled(tmp_path: Path) -> Iterator[Shop]:
    """Its spool has the event ``some-event`` of a killed process."""
    folder = tmp_path / "spool"
    leave(folder, ["some-event"])
    settings = {"HISTORY_DIR": str(tmp_path / "history"), "SPOOL_DIR": str(folder)}
    settings["BROKER_URL"] = HERE.addresses[0]
    with open_shop(BACKLOG="spool", TESTING_BROKER=True, **settings) as shop:
        yield shop


def spool_file(shop: Shop) -> Path:
    (path,) = Path(shop.config["EVENTCOLLECTOR_SPOOL_DIR"]).glob("*.spool")
    return path


def test_a_history_that_is_not_there_is_told(spooled: Shop) -> None:
    result = run(spooled, "why", "some-event")
    assert result.exit_code == 3
    folder = folder_of(spooled)
    assert result.stderr == (
        f"There is no history: {folder} does not exist, so no process has written to it"
        " yet\n"
    )
    assert "state     waiting" in result.stdout
    result = run(spooled, "why", "other-event")
    assert result.exit_code == 1
    assert "Nothing is known about an event 'other-event'" in result.stderr


@pytest.mark.parametrize("damage", ["damaged", "quarantined", "elsewhere"])
def test_an_event_may_be_in_a_file_that_can_not_be_read(
    spooled: Shop, damage: str
) -> None:
    path = spool_file(spooled)
    if damage == "damaged":
        path.write_bytes(b"x" * 5000)
    elif damage == "quarantined":
        path.rename(f"{path}.quarantined")
    else:
        path.unlink()
        leave(path.parent, ["some-event"], destination=ELSEWHERE)
    killed(folder_of(spooled), line("sent", "some-event"))
    result = run(spooled, "why", "some-event")
    assert result.exit_code == 3
    assert "Can't read shop@" in result.stderr
    last = result.stdout.splitlines()[-1]
    assert last.startswith("Next: nothing, unless it is in what can't be read. Process")
    told = json.loads(run(spooled, "why", "some-event", "--json").stdout)
    assert len(told["unreadable"]) == 1
    assert not told["lost"]


def test_an_event_may_wait_for_a_process(spooled: Shop) -> None:
    killed(folder_of(spooled), line("failed", "some-event"))
    assert next_of(spooled, "some-event") == (
        "a process of the app adopts it, or 'flask events flush' does; now: no process"
        " of the app has handled an event and is running here"
    )


def test_of_two_copies_that_of_a_running_process_counts(spooled: Shop) -> None:
    first = spool_file(spooled)
    leave(first.parent, ["some-event"])
    for path in first.parent.glob("*.spool"):
        with FlaskEvents(first.parent, HERE.addresses[0]).holding(path):
            assert "sends it once the broker takes it" in next_of(spooled, "some-event")


def test_an_id_is_completed_from_all_that_is_known(spooled: Shop) -> None:
    """Of one event the history tells, the other waits."""
    killed(folder_of(spooled), line("confirmed", "some-other"))
    result = run(spooled, "why", "some-")
    assert result.exit_code == 1
    assert "some- is ambiguous: some-event, some-other" in result.stderr
    assert next_of(spooled, "some-o", 0) == "nothing: the broker has it"
    assert "adopts it" in next_of(spooled, "some-e")


def test_an_id_may_be_the_beginning_of_another_one(spooled: Shop) -> None:
    killed(folder_of(spooled), line("confirmed", "some-event-2"))
    assert "adopts it" in next_of(spooled, "some-event")


def test_events_in_the_history_alone_may_be_ambiguous(shop: Shop) -> None:
    killed(folder_of(shop), line("sent", "some-1"), line("sent", "some-2"))
    result = run(shop, "why", "some")
    assert result.exit_code == 1
    assert "some is ambiguous: some-1, some-2" in result.stderr
