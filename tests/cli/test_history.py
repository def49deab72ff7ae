"""The commands ``why``, ``tail`` and ``top``."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import Result

from flask_eventcollector import Outcome
from flask_eventcollector.backlog.story import Story
from flask_eventcollector.cli.history import _table
from flask_eventcollector.events import TargetProblem
from flask_eventcollector.monitoring import life
from flask_eventcollector.monitoring.history_files import Counts, History, Line
from tests.cli.support import runner
from tests.helpers import Shop, open_shop, wait_until


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(HISTORY_DIR=str(tmp_path / "history"), DEAD_AFTER=3600) as shop:
        yield shop


def run(shop: Shop, *args: str) -> Result:
    return runner(shop).invoke(args=["events", *args])


def lines_of(shop: Shop, id: str) -> list[str]:
    folder = Path(shop.config["EVENTCOLLECTOR_HISTORY_DIR"])
    if not folder.exists():
        return []
    return [line.what for line in History(folder, "shop").of(id)]


def published(shop: Shop, payload: Any = 1, queue: str = "q") -> str:
    """Enqueue and publish an event; returns its id once that is written down."""
    event = shop.events.enqueue_event(payload, queue)
    shop.events.publish(0.2)
    wait_until(lambda: len(lines_of(shop, event.id)) >= 3, "it is written down")
    return event.id


def test_why_tells_the_whole_life(shop: Shop) -> None:
    id = published(shop, {"secret": "s3cr3t"})
    wait_until(lambda: "confirmed" in lines_of(shop, id), "confirmed")
    result = run(shop, "why", id[:8])
    assert result.exit_code == 0
    words = [line.split("  ")[2] for line in result.stdout.splitlines()[:-1]]
    assert words == ["enqueued", "handed over", "sent", "confirmed"]
    assert result.stdout.splitlines()[-1] == "Next: nothing: the broker has it"
    assert "s3cr3t" not in result.stdout


def test_times_have_a_date_and_are_in_utc(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = published(shop)
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        told = [run(shop, "why", id), run(shop, "tail", "--since", "1h", "--for", "0")]
        told.append(run(shop, "top", "--once"))
    finally:
        monkeypatch.undo()
        time.tzset()
    for result in told:
        first = result.stdout.splitlines()[0].split("  ")[0]
        assert first.endswith("Z")
        moment = datetime.fromisoformat(first.replace("Z", "+00:00"))
        assert abs(moment - datetime.now(timezone.utc)) < timedelta(minutes=5)


def test_why_names_the_refusal_and_what_comes_next(shop: Shop) -> None:
    shop.faults.refuse("q", Outcome.RETURNED)
    id = published(shop)
    result = run(shop, "why", id, "--json")
    assert result.exit_code == 3
    story = json.loads(result.stdout)
    failed = next(line for line in story["history"] if line["what"] == "failed")
    assert failed["outcome"] == "returned"
    assert story["next"] == "its process sends it once the broker takes it"


class Waiting(NamedTuple):
    state: str
    next_try: float | None = 5400.0
    is_left: bool = False


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


@pytest.mark.parametrize("command", ["tail", "top"])
def test_without_history_nothing_can_be_shown(command: str) -> None:
    with open_shop() as shop:
        result = run(shop, command)
        assert result.exit_code == 1
        assert "EVENTCOLLECTOR_HISTORY_DIR is not set" in result.stderr


@pytest.mark.parametrize("command", ["tail", "top"])
def test_a_folder_that_is_not_there_is_said(shop: Shop, command: str) -> None:
    result = run(shop, command)
    assert result.exit_code == 1
    assert "No process has written to it yet" in result.stderr


def test_a_folder_that_is_removed_meanwhile_is_said(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(shop)
    shop.events.close(1)

    def meanwhile(seconds: float) -> None:
        shutil.rmtree(folder_of(shop))

    monkeypatch.setattr("flask_eventcollector.cli.history.time.sleep", meanwhile)
    result = run(shop, "tail")
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr
    assert "it was removed" in result.stderr


def test_a_closed_pipe_is_no_problem_of_the_folder(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(shop)

    def fail(*args: Any, **options: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("flask_eventcollector.cli.history.click.echo", fail)
    result = run(shop, "top", "--once")
    assert result.exit_code == 1
    assert "folder" not in result.stderr


def test_tail_follows_what_happens(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    published(shop, queue="before")
    # The first look finds nothing; then something happens.
    enqueued: list[str] = []

    def meanwhile(seconds: float) -> None:
        if not enqueued:
            enqueued.append(published(shop, queue="orders.created"))
            published(shop, queue="users.created")
            wait_until(lambda: "confirmed" in lines_of(shop, enqueued[0]), "the end")

    monkeypatch.setattr("flask_eventcollector.cli.history.time.sleep", meanwhile)
    result = run(shop, "tail", "--for", "0.1", "--queue", "orders.*", "--json")
    assert result.exit_code == 0
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["what"] for line in found] == [
        "enqueued",
        "handed over",
        "sent",
        "confirmed",
    ]
    assert {line["queue"] for line in found} == {"orders.created"}


def test_tail_begins_in_the_past(shop: Shop) -> None:
    id = published(shop, queue="orders.created")
    wait_until(lambda: "confirmed" in lines_of(shop, id), "the end")
    begin = ["--since", "1h", "--queue", "orders.*"]
    result = run(shop, "tail", *begin, "--for", "0", "--json")
    found = [json.loads(line)["what"] for line in result.stdout.splitlines()]
    assert found == ["enqueued", "handed over", "sent", "confirmed"]
    assert run(shop, "tail", "--since", "0s", "--for", "0").stdout == ""


def test_tail_shows_one_line_for_people(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(shop)

    def meanwhile(seconds: float) -> None:
        published(shop, queue="\x1b]0;evil\x07")

    monkeypatch.setattr("flask_eventcollector.cli.history.time.sleep", meanwhile)
    result = run(shop, "tail", "--for", "0.1")
    assert "\x1b" not in result.stdout
    assert "\\x1b]0;evil\\x07" in result.stdout


def test_top_sums_all_processes(shop: Shop) -> None:
    published(shop)
    shop.faults.go_down("no route to host")
    published(shop, queue="q2")
    folder = Path(shop.config["EVENTCOLLECTOR_HISTORY_DIR"])
    history = History(folder, "shop")
    wait_until(
        lambda: [c.stats["retained"] for c in history.counts()] == [1], "the counts"
    )
    twin = folder / "shop@1@00000000.json"
    life.show_life(twin.with_suffix(".lock"))
    (counts,) = folder.glob("*.json")
    own = f'"pid": {os.getpid()}'
    twin.write_text(counts.read_text().replace(own, '"pid": 1'))

    result = run(shop, "top", "--once")
    assert result.exit_code == 0
    first, heads, *rows, total, problem = result.stdout.splitlines()
    assert first.endswith("2 processes")
    assert heads.split() == [
        *("PROCESS", "ENQUEUED", "CONFIRMED", "DISCARDED", "DROPPED", "COLLECTED"),
        *("IN", "FLIGHT", "RETAINED", "DEAD", "BROKER"),
    ]
    assert len(rows) == 2
    assert total.split() == ["total", "4", "2", "0", "0", "0", "0", "2", "0"]
    assert problem == "! no route to host"

    shown = json.loads(run(shop, "top", "--json").stdout)
    assert shown["total"]["retained"] == 2
    assert sorted(one["pid"] for one in shown["processes"])[0] == 1


@pytest.fixture
def damaged(shop: Shop) -> str:
    """The id of an event, one line of whose life is damaged."""
    id = published(shop)
    wait_until(lambda: "confirmed" in lines_of(shop, id), "the end")
    (path,) = folder_of(shop).glob("*.jsonl")
    with path.open("a") as file:
        file.write(json.dumps({"at": "now", "what": "sent", "ids": [id]}) + "\n")
    return id


def folder_of(shop: Shop) -> Path:
    return Path(shop.config["EVENTCOLLECTOR_HISTORY_DIR"])


DAMAGE = "1 line is damaged, so left out"


@pytest.mark.parametrize("command", ["why", "tail"])
def test_a_damaged_line_is_left_out_and_said(
    shop: Shop, damaged: str, command: str
) -> None:
    args = [damaged] if command == "why" else ["--since", "1h", "--for", "0"]
    result = run(shop, command, *args)
    assert result.exit_code == 3
    assert "confirmed" in result.stdout
    (told,) = result.stderr.splitlines()
    assert told.startswith("Can't read shop@")
    assert told.endswith(DAMAGE)
    result = run(shop, command, *args, "--json")
    assert result.exit_code == 3
    text = result.stdout if command == "why" else result.stdout.splitlines()[-1]
    (unreadable,) = json.loads(text)["unreadable"]
    assert unreadable["reason"] == DAMAGE


def test_damage_to_all_that_is_known_of_an_event_is_said(
    shop: Shop, damaged: str
) -> None:
    (path,) = folder_of(shop).glob("*.jsonl")
    path.write_text(f'{{"{damaged}\n')
    result = run(shop, "why", damaged)
    assert result.exit_code == 1
    assert DAMAGE in result.stderr
    assert "Nothing is known" in result.stderr
    result = run(shop, "why", damaged, "--json")
    assert json.loads(result.stdout)["unreadable"][0]["reason"] == DAMAGE


def test_damaged_counts_are_said(shop: Shop) -> None:
    published(shop)
    path = folder_of(shop) / "shop@1@00000000.json"
    path.write_text("{")
    life.show_life(path.with_suffix(".lock"))
    result = run(shop, "top", "--once")
    assert result.exit_code == 3
    assert "1 process\n" in result.stdout
    expected = "shop@1@00000000.json: damaged, so its process is left out"
    assert result.stderr == f"Can't read {expected}\n"
    result = run(shop, "top", "--json")
    assert result.exit_code == 3
    assert len(json.loads(result.stdout)["unreadable"]) == 1


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        (200, ["DISCARDED", "DROPPED", "COLLECTED", "IN FLIGHT"]),
        (80, []),
    ],
)
def test_top_leaves_out_zeros_that_do_not_fit(width: int, heads: list[str]) -> None:
    stats = {"enqueued": 3, "confirmed": 1, "retained": 1, "dead": 1, "broker": "ready"}
    lines = _table([Counts(4711, time.time(), stats)], os.terminal_size((width, 24)))
    kept = ["PROCESS", "ENQUEUED", "CONFIRMED", *heads, "RETAINED", "DEAD", "BROKER"]
    assert lines[1] == "  ".join(kept)
    assert max(map(len, lines)) <= width


def test_top_shows_where_each_event_is() -> None:
    ends = ["confirmed", "unrouted", "discarded", "dropped", "outboxed"]
    places = ["collected", "delayed", "in_flight", "retained", "dead"]
    stats = {"enqueued": 6, "adopted": 4, **dict.fromkeys(ends + places, 1)}
    _, _, _, total = _table([Counts(4711, time.time(), {**stats, "broker": "ready"})])
    assert total.split() == ["total", "6", "4", *["1"] * 10]


@pytest.mark.parametrize(
    ("processes", "targets", "kinds"),
    [
        (30, 30, {"process": 9, "problem": 9, "more": 2}),
        (30, 2, {"process": 17, "problem": 2, "more": 1}),
        (2, 30, {"process": 2, "problem": 9, "more": 1}),
        (3, 2, {"process": 3, "problem": 2, "more": 0}),
    ],
)
def test_top_fits_into_the_terminal(
    processes: int, targets: int, kinds: dict[str, int]
) -> None:
    """Its sums are always seen."""
    found = [asdict(TargetProblem(f"q{n}", "", 1, "x" * 99)) for n in range(targets)]
    counts = [
        Counts(pid, time.time(), {"problems": found})
        for pid in range(100, 100 + processes)
    ]
    lines = _table(counts, os.terminal_size((80, 24)))
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 23
    assert {
        "process": sum(line.split()[0].isdigit() for line in lines),
        "problem": sum(line.startswith("! q") for line in lines),
        "more": sum("more" in line for line in lines),
    } == kinds
    assert [line for line in lines if line.startswith("total")]
    whole = _table(counts)
    assert len(whole) == 3 + processes + targets
