"""``flask events adopt``, and other commands with files of other destinations."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from flask_eventcollector.stores.spool.admin import adopting
from flask_eventcollector.stores.spool.folder import claim_orphan, destination_of
from flask_eventcollector.stores.spool.journal import PAGE_SIZE, Journal
from tests.cli.support import FlaskEvents, Run, runner
from tests.helpers import Shop, open_shop
from tests.rabbitmq import RabbitMQNode, free_ports
from tests.spool.support import ELSEWHERE, dead_rows, failing
from tests.spool.support import leave as leave_for

#: As left by the app when it used another broker.
leave = partial(leave_for, destination=ELSEWHERE)


def status(run: Run) -> Any:
    return json.loads(run("status", "--json").stdout)


# Other commands


def test_status_names_what_is_left_alone(run: Run, folder: Path) -> None:
    path = leave(folder, "abc")

    result = run("status")

    assert result.exit_code == 3
    assert "No events for memory:// are waiting." in result.stdout
    assert "Left alone, since their events are not for memory://:" in result.stdout
    assert f"{path.name}: 3 events for amqp://rabbit:5672/billing" in result.stdout
    assert "flask events adopt FILE" in result.stdout


def test_status_says_so_in_json(run: Run, folder: Path) -> None:
    path = leave(folder, "abc")

    shown = status(run)

    assert shown["destination"] == ["memory://"]
    assert (shown["files"], shown["total"]["waiting"]) == ([], 0)
    [other] = shown["others"]
    assert other["path"] == str(path)
    assert other["destination"] == ["amqp://rabbit:5672/billing"]
    assert (other["waiting"], other["alive"]) == (3, False)


def test_another_app_s_living_process_is_no_concern(run: Run, folder: Path) -> None:
    path = leave(folder, "abc")
    assert destination_of(path) == ELSEWHERE
    claim = claim_orphan(path)
    assert claim is not None

    result = run("status")

    assert result.exit_code == 0
    assert "3 events for amqp://rabbit:5672/billing" in result.stdout
    assert "adopt" not in result.stdout
    claim.release()


def test_the_other_commands_leave_it_alone(run: Run, shop: Shop, folder: Path) -> None:
    path = leave(folder, "ab")
    before = path.read_bytes()

    result = run("list")
    assert (result.exit_code, result.stdout) == (3, "No events are waiting.\n")
    assert result.stderr == (
        "Left alone: 2 events in 1 file for another broker, or of an app without a"
        " process; see 'flask events status'.\n"
    )
    assert run("show", "a").exit_code == 1
    assert run("purge", "a", "--yes").exit_code == 1
    result = run("flush")

    assert (result.exit_code, result.stdout) == (3, "0 events delivered.\n")
    assert "Left alone: 2 events in 1 file for another broker" in result.stderr
    assert shop.sent() == []
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_read_is_no_empty_folder(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(folder, "ab")
    monkeypatch.setattr(
        os, "listdir", failing(PermissionError(13, "Permission denied"))
    )
    for command in ("status", "list", "dead", "flush"):
        result = run(command)
        assert result.exit_code == 1
        assert f"Can't read the folder {folder}: Permission denied." in result.stderr


# Adopting


def test_what_is_adopted_is_sent(run: Run, shop: Shop, folder: Path) -> None:
    path = leave(folder, range(2500))

    result = run("adopt", path.name, "--yes")

    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "Adopted 2 500 events of 1 file. The next worker sends them, or run 'flask"
        " events flush' now.\n"
    )
    assert not path.exists()
    assert status(run)["others"] == []
    assert run("flush").stdout == "2 500 events delivered.\n"
    assert shop.sent() == list(range(2500))
    assert list(folder.iterdir()) == []


def test_dead_events_stay_dead(run: Run, folder: Path) -> None:
    path = leave(folder, "a")
    journal = Journal.open(path)
    journal.write(dead_rows("b"))
    journal.close()

    assert "Adopted 2 events" in run("adopt", path.name, "--yes").stdout

    total = status(run)["total"]
    assert (total["waiting"], total["dead"]) == (1, 1)


def test_it_asks_first_and_says_what_would_be_sent_where(
    run: Run, folder: Path
) -> None:
    path = leave(folder, "ab")

    result = run("adopt", path.name, input="n\n")

    assert result.exit_code == 1
    assert f"{path.name}: 2 events for amqp://rabbit:5672/billing" in result.stderr
    assert "Send them to memory://? [y/N]" in result.stderr
    assert status(run)["others"][0]["waiting"] == 2
    assert "Adopted 2 events" in run("adopt", path.name, input="y\n").stdout


def test_it_says_in_json_what_it_did(run: Run, folder: Path) -> None:
    paths = [leave(folder, "ab"), leave(folder, "c")]
    claim = claim_orphan(paths[1])
    assert claim is not None

    result = run("adopt", *(path.name for path in paths), "--yes", "--json")

    assert result.exit_code == 3
    shown = json.loads(result.stdout)
    assert shown["adopted"] == 2
    file = {"path": str(paths[0]), "events": 2, "quarantined": None}
    assert shown["files"] == [file]
    [left] = shown["unreadable"]
    assert left["path"] == str(paths[1])
    assert "stop that process first" in left["reason"]
    claim.release()


def test_all_files_of_the_app_for_other_brokers(run: Run, folder: Path) -> None:
    leave(folder, "ab")
    leave(folder, "c")
    own = leave_for(folder, "d", destination=None)

    assert (
        "Adopted 3 events of 2 files." in run("adopt", "--from", "shop", "--yes").stdout
    )

    assert own.exists()
    assert status(run)["total"]["waiting"] == 4


def test_all_files_of_an_app_that_was_renamed(
    run: Run, shop: Shop, folder: Path
) -> None:
    shop.name = "shop2"
    leave(folder, "ab")
    leave_for(folder, "c", destination=None)
    assert status(run)["total"]["waiting"] == 0

    assert (
        "Adopted 3 events of 2 files." in run("adopt", "--from", "shop", "--yes").stdout
    )

    assert run("flush").stdout == "3 events delivered.\n"
    assert sorted(shop.sent()) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["shop", "Shop & Söhne/@1", "x" * 200])
def test_a_renamed_app_keeps_its_events_by_its_spool_name(
    folder: Path, name: str
) -> None:
    settings = {"BROKER_URL": "memory://", "SPOOL_DIR": str(folder)}
    settings |= {"BACKLOG": "spool", "SPOOL_NAME": name}
    with open_shop(TESTING_BROKER=True, **settings) as before:
        before.faults.go_down()
        with before.events.auto_publish():
            before.enqueue("kept")
    with open_shop(TESTING_BROKER=True, **settings) as after:
        after.name = "shop2"

        def run(*args: str) -> Result:
            return runner(after).invoke(args=["events", *args])

        assert run("status").stdout.startswith(f"Spool of {name!r}: ")
        adopted = run("adopt", "--from", name)
        assert adopted.stdout == "Adopted 0 events of 0 files.\n"
        assert run("flush").stdout == "1 event delivered.\n"
        assert after.sent() == ["kept"]


def test_a_file_of_another_folder(run: Run, tmp_path: Path) -> None:
    path = leave(tmp_path / "old", "ab")
    assert "Adopted 2 events" in run("adopt", str(path), "--yes").stdout
    assert status(run)["total"]["waiting"] == 2
    assert not path.exists()


def test_a_misspelt_app_is_an_error_that_names_what_is_there(
    run: Run, folder: Path
) -> None:
    result = run("adopt", "--from", "shpo")
    assert result.exit_code == 1
    assert "No events of 'shpo' are waiting: there are no spool" in result.stderr
    assert f" files at all in {folder}" in result.stderr
    leave(folder, "ab")
    assert "spool files of 'shop' (1 file)" in run("adopt", "--from", "shpo").stderr


def test_without_files_for_other_brokers_there_is_nothing_to_do(run: Run) -> None:
    result = run("adopt", "--from", "shop")
    assert (result.exit_code, result.stdout) == (0, "Adopted 0 events of 0 files.\n")


def test_status_names_an_app_without_processes_since_this_one_may_be_renamed(
    run: Run, shop: Shop, folder: Path
) -> None:
    path = leave(folder, "ab")
    shop.name = "shop2"

    result = run("status")

    assert result.exit_code == 3
    assert "2 events in 1 file of 'shop', which has no process here" in result.stdout
    assert "flask events adopt --from shop" in result.stdout
    assert status(run)["other_apps"] == {"shop": {"files": 1, "events": 2}}
    for command in ("list", "dead", "flush"):
        result = run(command)
        assert result.exit_code == 3
        assert "Left alone: 2 events in 1 file for another broker" in result.stderr
        *_, last = run(command, "--json").stdout.splitlines()[-1:]
        shown = last if command != "flush" else run(command, "--json").stdout
        assert json.loads(shown)["left_alone"] == [str(path)]
    claim = claim_orphan(path)
    assert claim is not None
    assert [run(c).exit_code for c in ("status", "list", "flush")] == [0, 0, 0]
    claim.release()


def test_the_events_of_a_damaged_file_are_not_counted(
    run: Run, shop: Shop, folder: Path
) -> None:
    path = leave(folder, "ab")
    path.write_bytes(b"?" * PAGE_SIZE + path.read_bytes()[PAGE_SIZE:])
    shop.name = "shop2"

    result = run("status")
    assert "Left alone: 1 file of 'shop', which has no" in result.stdout
    assert f"Can't read {path.name}: it is damaged" in result.stderr
    assert "(or 'adopt', if it is left alone)" in result.stderr
    shown = status(run)
    assert shown["other_apps"] == {"shop": {"files": 1, "events": None}}
    assert [problem["path"] for problem in shown["unreadable"]] == [str(path)]
    assert "Left alone: 1 file for another broker" in run("list").stderr


def test_a_file_without_events_is_no_reason_to_adopt(
    run: Run, shop: Shop, folder: Path
) -> None:
    leave(folder, "")
    assert [run(c).exit_code for c in ("status", "list", "flush")] == [0, 0, 0]
    shop.name = "shop2"
    assert [run(c).exit_code for c in ("status", "list", "flush")] == [0, 0, 0]


@pytest.mark.parametrize("args", [[], ["file.spool", "--from", "shop"]])
def test_it_wants_files_or_an_app(run: Run, args: list[str]) -> None:
    result = run("adopt", *args)
    assert result.exit_code == 2
    assert "Give the names of files, or --from." in result.stderr


def test_an_unknown_file_changes_nothing(run: Run, folder: Path) -> None:
    path = leave(folder, "ab")
    result = run("adopt", path.name, "nothing.spool", "--yes")
    assert result.exit_code == 1
    assert "No such spool file: nothing.spool." in result.stderr
    assert path.exists()


def test_an_empty_file_is_just_removed(run: Run, folder: Path) -> None:
    path = leave(folder, "")
    path.write_bytes(b"")
    assert "Adopted 0 events of 1 file." in run("adopt", path.name, "--yes").stdout
    assert list(folder.iterdir()) == []


# Damage


def test_of_a_damaged_file_all_that_is_intact_is_adopted(
    run: Run, folder: Path
) -> None:
    path = leave(folder, range(10))
    path.write_bytes(b"?" * PAGE_SIZE + path.read_bytes()[PAGE_SIZE:])

    result = run("adopt", path.name, "--yes")

    assert "10 events of 1 file" in result.stdout
    assert f"Not adopted: {path.name}.quarantined: quarantined" in result.stderr
    assert result.exit_code == 3
    assert status(run)["total"]["waiting"] == 10


def test_a_damaged_row_is_kept_in_the_quarantined_file(run: Run, folder: Path) -> None:
    path = leave(folder, ["aaaa", "bbbb", "cccc"])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET body = 'x' WHERE id = 'bbbb'")
    connection.close()

    assert "2 events of 1 file" in run("adopt", path.name, "--yes").stdout

    quarantined = path.with_name(path.name + ".quarantined")
    connection = sqlite3.connect(quarantined)
    assert connection.execute("SELECT id FROM events").fetchall() == [("bbbb",)]
    connection.close()


def test_a_newer_version_s_file_is_left_with_the_cure(run: Run, folder: Path) -> None:
    path = leave(folder, "ab")
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {(0x4543 << 16) | 4}")
        connection.execute("PRAGMA user_version = 4")
    connection.close()

    result = run("adopt", path.name, "--yes")

    assert result.exit_code == 3
    assert f"Not adopted: {path.name}: " in result.stderr
    assert "upgrade the library here as well" in result.stderr
    assert path.exists()


# Interruptions


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
def test_when_the_disk_fails_in_the_middle_nothing_is_lost(
    run: Run, shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(adopting, "_PAGE", 2)
    path = leave(folder, range(5))
    write, calls = Journal.write, iter(range(99))

    def fails_once(journal: Journal, *args: Any) -> None:
        if next(calls) == place:
            raise sqlite3.OperationalError("disk I/O error")
        write(journal, *args)

    monkeypatch.setattr(Journal, "write", fails_once)
    result = run("adopt", path.name, "--yes")
    assert result.exit_code == 3
    assert "disk I/O error" in result.stderr
    assert "Adopted 0 events of 0 files." in result.stdout

    assert run("adopt", path.name, "--yes").exit_code == 0

    run("flush")
    assert sorted(shop.sent()) == list(range(5))


def test_when_no_new_file_can_be_made_the_old_one_is_left_to_others(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = leave(folder, "ab")
    with monkeypatch.context() as patch:
        full = sqlite3.OperationalError("database or disk is full")
        patch.setattr(Journal, "create", failing(full))
        assert "disk is full" in run("adopt", path.name, "--yes").stderr
    assert list(folder.glob("*.spool")) == [path]
    assert "Adopted 2 events" in run("adopt", path.name, "--yes").stdout


def test_an_interrupted_command_leaves_the_file_to_others(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    path = leave(folder, "ab")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "create", interrupt)
        assert run("adopt", path.name, "--yes").exit_code == 1
    claim = claim_orphan(path)
    assert claim is not None
    claim.release()


# With RabbitMQ


def test_after_the_broker_was_moved_its_events_are_sent_to_the_new_one(
    rabbitmq: RabbitMQNode, make_queue: Callable[..., str], folder: Path
) -> None:
    queue = make_queue()
    old = FlaskEvents(folder, f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/")
    code = (
        "import os, signal\n"
        "from tests.cli.shop_app import events\n"
        "with events.auto_publish():\n"
        f"    events.enqueue_event('kept', {queue!r})\n"
        "while not events.stats().spooled:\n"
        "    pass\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with old.python(code) as process:
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    new = FlaskEvents(folder, rabbitmq.url)

    assert new("flush").stdout == "0 events delivered.\n"
    assert "1 event for amqp://127.0.0.1:" in new("status").stdout
    assert new("adopt", "--from", "shop", "--yes").returncode == 0

    assert new("flush").stdout == "1 event delivered.\n"
    assert [message.json() for message in rabbitmq.get_all(queue)] == ["kept"]
