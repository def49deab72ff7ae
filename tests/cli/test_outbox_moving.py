"""``flask events flush``, ``export``, ``import`` and ``adopt`` with an outbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from flask_eventcollector.events import Properties
from flask_eventcollector.stores.outbox import admin
from flask_eventcollector.stores.outbox.outbox import Refused
from tests.cli.test_outbox import Command, full, opened, sqlite_in
from tests.helpers import Recorder
from tests.spool.support import HERE, leave


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """The commands of an app with an outbox, and no spool, that delivers."""
    with opened(sqlite_in(tmp_path)) as command:
        yield command


@pytest.fixture
def both(tmp_path: Path, folder: Path) -> Iterator[Command]:
    """As *command*, with a spool."""
    settings = {"BACKLOG": "spool", "SPOOL_DIR": str(folder)}
    with opened(sqlite_in(tmp_path), **settings) as command:
        yield command


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def write(command: Command, *payloads: str, app: str = "shop") -> list[int]:
    return command.place.write(command.place.outbox(app), payloads)


# Flush.


def test_a_flush_delivers_what_nobody_holds(database_url: str) -> None:
    with opened(database_url) as command:
        write(command, *"abc")
        result = command("flush")

        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == "3 events delivered.\n"
        assert command.ids() == []


def test_a_flush_leaves_what_others_hold_or_waits_and_says_so(
    command: Command,
) -> None:
    command.fill()
    result = command("flush", "--timeout", "1")
    shown = command.json("flush", "--timeout", "0.5")

    assert result.exit_code == 3
    assert result.stdout == (
        "1 event delivered, 1 waiting, 1 dead.\n"
        "For the reasons, run 'flask events dead'. See also 'retry'.\n"
        "1 more event in the outbox, held by processes, which deliver them.\n"
    )
    numbers = {name: shown[name] for name in ("delivered", "waiting", "dead", "held")}
    assert numbers == {"delivered": 0, "waiting": 1, "dead": 1, "held": 1}
    assert command.ids() == ["held", "delayed", "dead"]


def test_a_flush_delivers_more_than_fits_into_memory(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path), MAX_EVENTS=10) as command:
        write(command, *map(str, range(60)))
        assert command("flush").stdout == "60 events delivered.\n"


def test_a_flush_goes_on_behind_what_has_expired(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path), MAX_EVENTS=10) as command:
        old = Properties(expires_in=0.001)
        command.place.write(command.place.outbox(), range(25), properties=old)
        write(command, "a")
        assert command("flush").stdout == "1 event delivered, 25 dropped.\n"


def test_a_flush_gives_back_what_it_can_t_deliver(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path), BROKER_URL="amqp://127.0.0.1:1") as command:
        write(command, *"ab")
        result = command("flush", "--timeout", "0.5")

        assert result.exit_code == 3
        assert result.stdout == "0 events delivered, 2 waiting.\n"
        assert "Not delivered: 127.0.0.1:1: Connection refused" in result.stderr
        assert command.json("status")["outbox"]["rows"]["free"] == 2


def test_a_flush_delivers_from_disk_and_outbox(both: Command, folder: Path) -> None:
    leave(folder, ["on disk"], destination=None)
    write(both, "row")

    assert both("flush").stdout == "2 events delivered.\n"
    assert both.json("status")["total"]["waiting"] == 0


def test_a_flush_beside_an_active_relay_leaves_the_rows_to_it(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path), OUTBOX_RELAY="external") as command:
        assert command.place.leadership("another").lead()
        write(command, "a")
        result = command("flush", "--timeout", "1")

        assert result.exit_code == 0
        assert "1 more event in the outbox" in result.stdout


def test_a_flush_without_the_table_says_so(both: Command, folder: Path) -> None:
    leave(folder, ["on disk"], destination=None)
    both.place.metadata.drop_all(both.place.engine)
    result = both("flush", "--timeout", "1")

    assert (result.exit_code, result.stdout) == (3, "1 event delivered.\n")
    assert "Not delivered: outbox_" in result.stderr
    assert "run your migrations" in result.stderr


def test_a_flush_with_an_engine_that_can_t_be_used_says_so(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path)) as command:
        at_once = create_engine(sqlite_in(tmp_path), isolation_level="AUTOCOMMIT")
        bind, table = command.shop.events.bind_session, command.place.table
        bind(sessionmaker(at_once), outbox=table)
        result = command("flush")
        # For the shop's end.
        bind(sessionmaker(command.place.engine), outbox=table)

    assert result.exit_code == 1
    assert "remove isolation_level from the engine's options" in result.stderr


# Export and import.


def test_rows_are_exported_and_imported_as_they_were(
    database_url: str, file: Path
) -> None:
    with opened(database_url) as command, Recorder(command.shop) as recorder:
        command.fill()
        moved = command("export", str(file), "--remove")
        assert (moved.exit_code, command.ids()) == (0, [])
        assert "Removed 4 events from the outbox." in moved.stdout
        assert recorder.names() == ["events_dropped"]

        result = command("import", str(file))
        again = command.json("import", str(file))

        assert result.stdout.startswith("Imported 4 events.\nA worker sends them")
        assert (again["imported"], again["skipped"]) == (0, 4)
        assert command.ids() == ["free", "held", "delayed", "dead"]
        assert all(command.place.values("maybe_sent"))
        assert command.place.values("state") == [0, 0, 0, 1]
        assert command.place.values("reason") == [None, None, None, "never"]
        rows = command.json("status")["outbox"]["rows"]
        assert (rows["free"], rows["dead"]) == (3, 1)


def test_an_import_names_the_relay_if_only_that_sends(
    tmp_path: Path, file: Path
) -> None:
    with opened(sqlite_in(tmp_path), OUTBOX_RELAY="external") as command:
        write(command, "row")
        command("export", str(file), "--remove")
        result = command("import", str(file))

    assert "'flask events relay' sends them" in result.stdout


def test_events_of_both_places_are_exported_in_order(
    both: Command, folder: Path, file: Path
) -> None:
    leave(folder, ["on disk"], destination=None)
    write(both, "row")
    result = both("export", str(file), "--remove")

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["body"] for line in lines] == ['"on disk"', '"row"']
    assert "Removed 2 events from the spool or the outbox." in result.stdout
    assert both("status").exit_code == 0

    assert "Imported 2 events." in both("import", str(file)).stdout
    assert len(both.ids()) == 2


def test_an_import_of_wrong_lines_adds_no_row(command: Command, file: Path) -> None:
    write(command, "a")
    command("export", str(file), "--remove")
    with file.open("a") as opened_file:
        opened_file.write("{}\n")
    result = command("import", str(file))

    assert result.exit_code == 1
    assert "line 2: version is None" in result.stderr
    assert command.ids() == []


def test_an_import_skips_what_is_in_the_other_place(
    both: Command, folder: Path, file: Path
) -> None:
    leave(folder, ["on disk"], destination=None)
    both("export", str(file))
    result = both("import", str(file))

    assert "skipped 1 that the spool or the outbox has already" in result.stdout
    assert both.ids() == []


def test_an_import_without_a_table_fails(command: Command, file: Path) -> None:
    write(command, "a")
    command("export", str(file), "--remove")
    command.place.metadata.drop_all(command.place.engine)
    result = command("import", str(file))

    assert result.exit_code == 1
    assert "Nothing was imported. outbox_" in result.stderr


def test_an_id_is_no_file(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    id = "beef0b24-5a0e-4c34-8b0f-9a4f4e8f6a11"
    command.place.write(command.place.outbox(), "a", id=id)
    for name in id, id[:8], id[:4]:
        result = command("export", name)
        assert result.exit_code == 2
        assert f"as in 'flask events export FILE {name}'" in result.stderr
    # No event's id begins like this.
    assert command("export", "dead").exit_code == 0


# Rows of an app that was renamed.


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are left alone as soon as nobody holds them."""
    monkeypatch.setattr(admin, "_ABANDONED", -1.0)


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize(
    "args",
    [
        ["status"],
        ["list"],
        ["dead"],
        ["flush"],
        ["export", "-"],
        ["retry", "--all", "--yes"],
        ["purge", "--dead", "--yes"],
    ],
    ids=" ".join,
)
def test_what_an_app_without_a_process_has_left_is_told(
    command: Command, args: list[str]
) -> None:
    write(command, "a", "b", app="old")
    result = command(*args)

    assert result.exit_code == 3
    text = result.stdout if args == ["status"] else result.stderr
    assert "Left alone: 2 events of 'old'" in text


@pytest.mark.usefixtures("_at_once")
def test_status_names_the_cure_for_a_renamed_app(command: Command) -> None:
    write(command, "a", app="old")
    (stray,) = command.json("status")["outbox"]["strays"].items()
    (last,) = command("status").stdout.splitlines()[2:]

    assert (stray[0], stray[1]["free"]) == ("old", 1)
    assert last == (
        "Left alone: 1 event of 'old', which no process sends. If this app was"
        " renamed, run 'flask events adopt --from old'."
    )
    assert command.lines("list") == [{"left_alone": [command.place.table.name]}]


@pytest.mark.usefixtures("_at_once")
def test_rows_of_an_app_that_holds_some_are_no_strays(command: Command) -> None:
    outbox = command.place.outbox("alive")
    command.place.write(outbox, "a", held=True)
    write(command, "b", app="alive")

    assert command("status").exit_code == 0


def test_new_rows_are_no_strays(command: Command) -> None:
    write(command, "new", app="new")

    assert command("status").exit_code == 0


def test_rows_of_a_renamed_app_are_adopted(database_url: str) -> None:
    with opened(database_url) as command:
        old = command.place.outbox("old")
        place = command.place
        free, dead, lapsed, held = (
            place.write(old, [name], held=True, id=full(name))[0]
            for name in ("free", "dead", "lapsed", "held")
        )
        old.give_back([free])
        old.die([Refused(dead, "never", 1)])
        place.end_leases()
        old.renew([held])
        result = command("adopt", "--from", "old", "--yes")

        assert result.exit_code == 3
        assert result.stdout.startswith("Adopted 3 events of the outbox. The next")
        assert "processes of 'old' hold 1 event: stop them first" in result.stderr
        rows = command.json("status")["outbox"]["rows"]
        assert (rows["free"], rows["held"], rows["dead"]) == (2, 0, 1)
        # Numbered in this order.
        assert place.values("maybe_sent") == [False, False, True, False]
        assert lapsed


@pytest.mark.parametrize("has_file", [True, False])
def test_an_adoption_names_the_relay_if_only_that_sends(
    tmp_path: Path, folder: Path, has_file: bool
) -> None:
    settings = {"BACKLOG": "spool", "SPOOL_DIR": str(folder)}
    with opened(sqlite_in(tmp_path), OUTBOX_RELAY="external", **settings) as command:
        write(command, "a", app="old")
        if has_file:
            leave(folder, ["on disk"], destination=HERE, app="old")
        result = command("adopt", "--from", "old", "--yes")

    whose = "The next worker and " * has_file
    verb = "send" if has_file else "sends"
    assert f" {whose}'flask events relay' {verb} them, or run" in result.stdout


def test_adopt_shows_what_it_is_about_and_asks(both: Command, folder: Path) -> None:
    leave(folder, ["on disk"], destination=HERE, app="old")
    write(both, "a", app="old")
    result = both("adopt", "--from", "old", input="n\n")

    assert result.exit_code == 1
    assert "outbox: 1 event of 'old'" in result.stderr
    assert "Send them to memory://?" in result.stderr
    shown = both.json("adopt", "--from", "old", "--yes")
    assert (shown["adopted"], shown["rows"], len(shown["files"])) == (2, 1, 1)


def test_adopt_with_a_wrong_name_says_what_there_is(both: Command) -> None:
    assert "of other apps" in both("adopt", "--from", "odl").stderr
    write(both, "a", app="old")
    result = both("adopt", "--from", "odl")

    assert result.exit_code == 1
    assert "in the outbox there are events of 'old' (1 event)" in result.stderr


def test_adopt_of_a_file_needs_a_spool(command: Command) -> None:
    result = command("adopt", "x.spool")

    assert result.exit_code == 1
    assert "The backlog is in memory, so there are no spool files" in result.stderr


def test_an_adoption_that_fails_is_told(command: Command) -> None:
    write(command, "a", app="old")
    name = command.place.table.name
    with command.place.engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TRIGGER no BEFORE UPDATE ON {name}"
            " BEGIN SELECT RAISE(ABORT, 'read only'); END"
        )
    result = command("adopt", "--from", "old", "--yes")

    assert (result.exit_code, result.stdout) == (3, "Adopted 0 events of 0 files.\n")
    assert f"Not adopted: {name}: the database failed (read only)" in result.stderr


def test_adopt_without_a_table_fails(command: Command) -> None:
    command.place.metadata.drop_all(command.place.engine)
    result = command("adopt", "--from", "old", "--yes")

    assert result.exit_code == 1
    assert "run your migrations" in result.stderr
