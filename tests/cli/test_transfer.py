"""``flask events export`` and ``import``."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_eventcollector.backlog import backlog
from flask_eventcollector.events import Event, Properties
from flask_eventcollector.messages.amqp_fields import copy_headers
from flask_eventcollector.messages.options import size_of
from flask_eventcollector.stores.spool.admin import changes, transferring
from flask_eventcollector.stores.spool.admin.lines import line_of, read_line
from flask_eventcollector.stores.spool.admin.reading import Gone
from flask_eventcollector.stores.spool.folder import Folder
from flask_eventcollector.stores.spool.journal import Journal
from flask_eventcollector.stores.spool.rows import StoredEvent
from tests.cli.support import FlaskEvents, Run
from tests.helpers import DEADLINE, Recorder, Shop, wait_until
from tests.rabbitmq import free_ports
from tests.spool import support
from tests.spool.support import dead_rows, failing, stored
from tests.spool.test_rows import HEADERS, KEYS

#: Without a destination, so that it fits every broker.
leave = partial(support.leave, destination=None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def with_dead(folder: Path) -> None:
    """Leave an event that waits, and one that is dead."""
    path = leave(folder, ["waits"], "orders")
    journal = Journal.open(path)
    journal.write(dead_rows(["died"]))
    journal.close()


def ids(file: Path) -> list[str]:
    return [json.loads(line)["id"] for line in file.read_text().splitlines()]


def listed(run: Run) -> list[tuple[str, str, str | None]]:
    lines = map(json.loads, run("list", "--json", "--limit", "0").stdout.splitlines())
    return [(e["id"], e["state"], e["reason"]) for e in lines]


# The format

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
NAMES = st.text(CHARACTERS, min_size=1, max_size=60)
TABLES = st.dictionaries(KEYS, HEADERS, max_size=4)


@given(
    body=st.binary(max_size=30) | st.text(max_size=20).map(str.encode),
    headers=TABLES,
    names=st.tuples(NAMES, NAMES, NAMES | st.just("")),
    time=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    reason=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    priority=st.none() | st.integers(0, 255),
)
def test_an_event_survives_export_and_import_unchanged(
    body: bytes,
    headers: dict[str, Any],
    names: tuple[str, str, str],
    time: datetime,
    reason: str | None,
    priority: int | None,
) -> None:
    properties = Properties(type="order", priority=priority)
    kept, size = copy_headers({f"x{key}": value for key, value in headers.items()})
    id, queue, exchange = names
    event = Event.of(
        id=id,
        target_queue=queue,
        exchange=exchange,
        body=body,
        headers=kept,
        enqueued_at=time.replace(tzinfo=timezone.utc),
        size=len(body) + size + size_of(properties),
        properties=properties,
    )

    line = line_of(StoredEvent(7, event, reason))
    number, found, dead = read_line(line, 7)

    assert line.count(b"\n") == 1
    assert (number, dead) == (7, reason)
    assert isinstance(found.headers, MappingProxyType)
    for name in Event.__slots__:
        assert getattr(found, name) == getattr(event, name)
    assert found.properties == properties


LINE = {
    "version": 2,
    "id": "one",
    "exchange": "",
    "target_queue": "orders",
    "headers": {},
    "properties": {},
    "body": "{}",
    "enqueued_at": "2026-11-30T02:28:52Z",
    "state": "waiting",
    "reason": None,
    "possible_duplicate": True,
}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": 3}, "version is 3, but this version of the library reads 1 to 2"),
        ({"id": None}, "id is of type NoneType: pass a str"),
        ({"id": ""}, "id: it is empty: write a unique text"),
        ({"target_queue": ""}, "target_queue is empty: pass the name of a queue"),
        ({"exchange": "x" * 256}, "exchange takes 256 bytes in UTF-8"),
        ({"headers": []}, "headers: it is not an object: write {}"),
        ({"headers": {"a": {"b": 1}}}, "headers: an object in it is neither"),
        ({"headers": {"a": 1.5}}, 'headers["a"] is of type float'),
        ({"properties": 5}, "properties: it is not an object: write {}"),
        ({"properties": {"priority": "a"}}, "priority is of type str"),
        ({"headers": {"CC": "a"}}, 'headers["CC"] is reserved'),
        ({"body": 1}, "body: it is neither a string nor"),
        ({"body": {"base64": "?"}}, "body: "),
        ({"enqueued_at": 5}, "enqueued_at: it is not a string"),
        ({"enqueued_at": "today"}, "enqueued_at: Invalid isoformat string"),
        ({"enqueued_at": "2026-11-30T02:28:52"}, "it has no time zone: add Z"),
        ({"enqueued_at": "0001-01-01T00:00:00+01:00"}, "enqueued_at: "),
        ({"state": "sent"}, "state: 'sent' is no state: write waiting or dead"),
        ({"state": "dead"}, "reason: a dead event needs one: write a string"),
        ({"state": "dead", "reason": "\ud800"}, "reason: "),
    ],
)
def test_a_wrong_line_is_named_with_its_field_and_nothing_is_imported(
    run: Run, file: Path, folder: Path, change: dict[str, Any], error: str
) -> None:
    file.write_text(f"{json.dumps(LINE)}\n{json.dumps(LINE | change)}\n")

    result = run("import", file)

    assert result.exit_code == 1
    assert f"{file}, line 2: " in result.stderr
    assert error in result.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"version": 1, "id"', "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[1]", "it is not a JSON object"),
        ('{"version": 1}', "body is missing: export again, or add it"),
    ],
)
def test_every_wrong_line_is_named_at_once(
    run: Run, file: Path, folder: Path, line: str, error: str
) -> None:
    file.write_text(f"{line}\n{json.dumps(LINE)}\n\n{line}\n")

    result = run("import", file, "--json")

    assert result.exit_code == 1
    invalid = json.loads(result.stdout)["invalid"]
    assert [problem["line"] for problem in invalid] == [1, 4]
    assert all(error in problem["reason"] for problem in invalid)
    assert list(folder.iterdir()) == []


def test_no_more_than_ten_wrong_lines_are_named(run: Run, file: Path) -> None:
    file.write_text("?\n" * 50)

    assert run("import", file).stderr.count("is not JSON") == 10


# Export


def test_export_writes_all_events_and_removes_none(
    run: Run, folder: Path, file: Path
) -> None:
    with_dead(folder)

    result = run("export", file)

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"Exported 2 events to {file}.\n"
    assert ids(file) == ["waits", "died"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stored(folder) == ["waits", "died"]
    assert run("export").stdout == file.read_text()


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["--queue", "ord*"], ["waits"]),
        (["--dead"], ["died"]),
        (["--reason", "n*"], ["died"]),
        (["--older-than", "1h"], []),
        (["died"], ["died"]),
    ],
)
def test_export_takes_the_conditions_and_ids_of_the_other_commands(
    run: Run, folder: Path, file: Path, conditions: list[str], expected: list[str]
) -> None:
    with_dead(folder)

    result = run("export", file, *conditions, "--remove", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "exported": len(expected),
        "removed": len(expected),
        "left": [],
        "left_alone": [],
        "unreadable": [],
    }
    assert ids(file) == expected
    assert len(listed(run)) == 2 - len(expected)


@pytest.mark.parametrize(
    "args",
    [["-", "--remove"], ["-", "--json"], ["FILE", "waits", "--dead"]],
)
def test_what_export_can_t_do_is_a_usage_error(
    run: Run, folder: Path, file: Path, args: list[str]
) -> None:
    with_dead(folder)

    result = run("export", *(str(file) if arg == "FILE" else arg for arg in args))

    assert result.exit_code == 2
    assert stored(folder) == ["waits", "died"]
    assert not file.exists()


def test_an_unknown_id_leaves_no_file(run: Run, folder: Path, file: Path) -> None:
    with_dead(folder)

    assert run("export", file, "nobody").exit_code == 1
    assert not file.exists()


def test_a_file_is_replaced_only_by_force(run: Run, folder: Path, file: Path) -> None:
    leave(folder, ["waits"])
    file.write_text("mine")

    result = run("export", file, "--remove")

    assert result.exit_code == 1
    assert "exists: give another name, or --force" in result.stderr
    assert file.read_text() == "mine"
    assert stored(folder) == ["waits"]
    assert run("export", file, "--remove", "--force").exit_code == 0
    assert ids(file) == ["waits"]


def test_what_is_no_file_is_not_replaced_even_by_force(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    leave(folder, ["waits"])

    result = run("export", tmp_path, "--force", "--remove")

    assert result.exit_code == 1
    assert "exists: give another name. Nothing" in result.stderr
    assert stored(folder) == ["waits"]


def test_two_exports_to_one_file_do_not_replace_each_other(file: Path) -> None:
    with (
        pytest.raises(transferring.NotReplaced),
        transferring.complete_file(file, replace=False),
    ):
        file.write_text("first")

    assert file.read_text() == "first"
    assert list(file.parent.iterdir()) == [file]


def test_nothing_is_removed_unless_the_file_is_on_disk(
    run: Run, folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(folder, ["waits"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(OSError(28, "No space left on device")))

        result = run("export", file, "--remove")

    assert result.exit_code == 1
    assert f"Can't write {file}: No space left on device" in result.stderr
    assert not list(file.parent.glob("*.jsonl*"))
    assert stored(folder) == ["waits"]


def test_the_signals_report_what_was_removed(
    run: Run, shop: Shop, folder: Path, file: Path
) -> None:
    with_dead(folder)

    with Recorder(shop) as recorder:
        result = run("export", file, "--remove")

    assert "Removed 2 events from the spool." in result.stdout
    assert len(recorder.one("events_dropped").events) == 2
    assert list(folder.iterdir()) == []


def test_what_was_delivered_during_the_export_counts_as_removed(
    run: Run, folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = leave(folder, ["delivered"])
    monkeypatch.setattr(backlog, "change", failing(Gone()))

    result = run("export", file, "--remove", "--json")

    assert path.exists()
    assert json.loads(result.stdout)["removed"] == 1


def test_what_is_for_another_broker_is_not_exported_but_said(
    run: Run, folder: Path, file: Path
) -> None:
    path = leave(folder, ["elsewhere"], destination=support.ELSEWHERE)

    result = run("export", file, "--json")

    assert result.exit_code == 3
    assert "Left alone: 1 event in 1 file for another broker" in result.stderr
    shown = json.loads(result.stdout)
    assert (shown["exported"], shown["left_alone"]) == (0, [str(path)])


def test_an_event_in_two_files_is_written_once_and_removed_from_both(
    run: Run, folder: Path, file: Path
) -> None:
    leave(folder, ["twice"])
    leave(folder, ["twice"])

    result = run("export", file, "--remove")

    assert result.exit_code == 0
    assert ids(file) == ["twice"]
    assert list(folder.iterdir()) == []


# Import


def test_import_brings_back_what_was_exported_in_its_order(
    run: Run, shop: Shop, folder: Path, file: Path
) -> None:
    with_dead(folder)
    leave(folder, range(20), "orders")
    before = listed(run)
    run("export", file, "--remove")

    result = run("import", file)

    assert result.exit_code == 0
    assert "Imported 22 events." in result.stdout
    assert listed(run) == before
    assert run("flush").exit_code == 3
    assert shop.sent("orders") == ["waits", *range(20)]


def test_import_skips_what_is_on_disk_and_what_comes_twice(
    run: Run, folder: Path, file: Path
) -> None:
    leave(folder, range(3))
    run("export", file, "1")
    for _ in range(3):
        file.write_text(file.read_text() + json.dumps(LINE) + "\n")

    first, second = (json.loads(run("import", file, "--json").stdout) for _ in "12")

    assert first == {"imported": 1, "skipped": 3, "unreadable": []}
    assert second == {"imported": 0, "skipped": 4, "unreadable": []}
    assert "skipped 4 that" in run("import", file).stdout
    assert len(list(folder.glob("*.spool"))) == 2


def test_import_into_a_folder_that_can_t_be_written_imports_nothing(
    run: Run, folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(json.dumps(LINE))
    full = failing(OSError(28, "No space left on device"))
    monkeypatch.setattr(Folder, "claim_new", full)

    result = run("import", file)

    assert result.exit_code == 1
    assert "Nothing was imported. spool: " in result.stderr
    assert "No space left on device" in result.stderr


# In processes of their own


@pytest.fixture
def flask_events(folder: Path) -> FlaskEvents:
    """With an unreachable broker."""
    return FlaskEvents(folder, f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/")


def test_a_frozen_process_s_events_are_exported_but_left(
    run: Run,
    folder: Path,
    file: Path,
    flask_events: FlaskEvents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = leave(folder, ["waits"])
    monkeypatch.setattr(changes, "PATIENCE", 0.2)
    with flask_events.holding(path):
        result = run("export", file, "--remove", "--json")

    assert result.exit_code == 3
    shown = json.loads(result.stdout)
    assert (shown["exported"], shown["removed"], shown["left"]) == (1, 0, ["waits"])
    assert "did not remove them" in shown["unreadable"][0]["reason"]
    assert ids(file) == ["waits"]


def test_a_killed_export_loses_nothing(
    folder: Path, file: Path, flask_events: FlaskEvents
) -> None:
    wanted = set(range(20_000))
    for when in (is_begun, Path.exists):
        if not stored(folder):  # At first, or since the kill came too late.
            leave(folder, wanted)
        with flask_events.started(
            "export", str(file), "--remove", "--force"
        ) as process:
            kill_once(partial(when, file), process)
        exported = set(map(int, ids(file))) if file.exists() else set()
        assert exported in (set(), wanted)
        assert set(stored(folder)) | exported == wanted


def kill_once(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Kill *process* once *condition* holds. It may end before that is seen."""
    wait_until(
        lambda: condition() or process.poll() is not None,
        "it has begun",
        3 * DEADLINE,
    )
    process.kill()
    process.wait(DEADLINE)


def is_begun(file: Path) -> bool:
    """Whether some of the events are in an unnamed file."""
    unnamed = file.parent.glob(f".{file.name}.*.part")
    return any(path.stat().st_size for path in unnamed)


def bytes_of(folder: Path) -> int:
    """The size of the transactions in *folder*."""
    return sum(path.stat().st_size for path in folder.glob("*-wal"))


def test_a_killed_import_has_imported_everything_or_nothing(
    folder: Path, file: Path, flask_events: FlaskEvents
) -> None:
    lines = (
        json.dumps(LINE | {"id": str(n), "body": f"{n:500}"}) for n in range(20_000)
    )
    file.write_text("\n".join(lines))
    with flask_events.started("import", str(file)) as process:
        kill_once(lambda: bytes_of(folder) > 1 << 20, process)
    assert len(stored(folder)) in (0, 20_000)

    result = flask_events("import", str(file))

    assert result.returncode == 0, result.stderr
    assert sorted(stored(folder)) == list(range(20_000))
