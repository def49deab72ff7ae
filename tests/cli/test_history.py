"""The commands ``tail`` and ``top``, and what they have in common with ``why``."""

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
from typing import Any

import pytest

from flask_eventcollector.cli.top import _table
from flask_eventcollector.events import TargetProblem
from flask_eventcollector.monitoring import life
from flask_eventcollector.monitoring.history.reader import History
from flask_eventcollector.monitoring.history.records import Counts
from tests.cli.histories import folder_of, lines_of, published, run
from tests.helpers import Shop, open_shop, wait_until


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(HISTORY_DIR=str(tmp_path / "history"), DEAD_AFTER=3600) as shop:
        yield shop


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

    monkeypatch.setattr("flask_eventcollector.cli.tail.time.sleep", meanwhile)
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

    monkeypatch.setattr("flask_eventcollector.cli.top.click.echo", fail)
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

    monkeypatch.setattr("flask_eventcollector.cli.tail.time.sleep", meanwhile)
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

    monkeypatch.setattr("flask_eventcollector.cli.tail.time.sleep", meanwhile)
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
    assert problem == "! the broker is down: no route to host"

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


#: All columns have something.
FULL = {
    "adopted": 200_000,
    **dict.fromkeys(["enqueued", "confirmed"], 1_234_567),
    **dict.fromkeys(["unrouted", "discarded", "dropped", "outboxed"], 4711),
    **dict.fromkeys(["collected", "delayed", "in_flight", "retained", "dead"], 100),
    "broker": "connecting",
}
SOME = {"enqueued": 3, "confirmed": 1, "retained": 1, "dead": 1, "broker": "ready"}


@pytest.mark.parametrize(
    ("width", "stats", "heads", "left_out"),
    [
        (200, SOME, "ENQUEUED CONFIRMED DISCARDED DROPPED COLLECTED IN FLIGHT", 0),
        (80, SOME, "ENQUEUED CONFIRMED", 0),
        (
            200,
            FULL,
            "ENQUEUED ADOPTED CONFIRMED UNROUTED DISCARDED DROPPED OUTBOXED"
            " COLLECTED DELAYED IN FLIGHT",
            0,
        ),
        (80, FULL, "ENQUEUED CONFIRMED DROPPED IN FLIGHT", 6),
        (40, FULL, "", 10),
    ],
)
def test_top_leaves_out_what_does_not_fit(
    width: int, stats: dict[str, Any], heads: str, left_out: int
) -> None:
    """Zeros first, and last of all what tells of trouble."""
    counts = [Counts(4711, time.time(), stats)]
    lines = _table(counts, os.terminal_size((width, 24)))
    kept = f"PROCESS {heads} RETAINED DEAD BROKER".split()
    assert max(map(len, lines)) <= width
    assert lines[1].split() == kept
    told = [line for line in lines if line.startswith("Too narrow")]
    assert told == [f"Too narrow for {left_out} more columns"] * bool(left_out)


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
