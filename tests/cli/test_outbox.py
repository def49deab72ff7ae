"""``flask events`` with an outbox, whose rows are written without a process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

import sqlalchemy
from click.testing import Result
from sqlalchemy.orm import sessionmaker

from flask_eventcollector.events import Properties
from flask_eventcollector.stores.outbox.outbox import Refused
from tests.cli.support import runner
from tests.helpers import Recorder, Shop, open_shop
from tests.outbox.support import Place
from tests.spool.support import HERE, leave


class Command:
    """Calls the commands of an app with an outbox.

    It has a row in each state: those of the queue "q" are free, held and delayed, that
    of "bills" is dead. Their ids are their states, in 36 characters.
    """

    def __init__(self, shop: Shop, place: Place) -> None:
        self.shop = shop
        self.place = place
        shop.events.bind_session(sessionmaker(place.engine), outbox=place.table)

    def fill(self) -> None:
        outbox = self.place.outbox()
        free, held, delayed = (
            self.place.write(outbox, [{"secret": state}], held=True, id=full(state))[0]
            for state in ("free", "held", "delayed")
        )
        (dead,) = self.place.write(
            outbox, [{"secret": "dead"}], held=True, id=full("dead"), queue="bills"
        )
        assert held
        outbox.give_back([free])
        outbox.postpone([delayed], 3600)
        outbox.die([Refused(dead, "never", 2)])

    def __call__(self, *args: str, input: str = "") -> Result:
        result = runner(self.shop).invoke(args=["events", *args], input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    def json(self, *args: str) -> Any:
        return json.loads(self(*args, "--json").stdout)

    def lines(self, *args: str) -> list[Any]:
        return [*map(json.loads, self(*args, "--json").stdout.splitlines())]

    def ids(self) -> list[str]:
        return [id.rstrip("-") for id in self.place.values("event_id")]


def full(state: str) -> str:
    return state.ljust(36, "-")


@contextmanager
def opened(url: str, **settings: Any) -> Iterator[Command]:
    defaults = {"BROKER_URL": "memory://", "BACKLOG": "memory", "TESTING_BROKER": True}
    place = Place(url)
    try:
        with open_shop(**(defaults | settings)) as shop:
            yield Command(shop, place)
    finally:
        place.close()


def sqlite_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'a.sqlite3'}"


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with opened(sqlite_in(tmp_path)) as command:
        command.fill()
        yield command


@pytest.fixture
def both(tmp_path: Path, folder: Path) -> Iterator[Command]:
    """As *command*, with a spool that has an event for the queue "q"."""
    settings = {"BACKLOG": "spool", "SPOOL_DIR": str(folder)}
    settings["BROKER_URL"] = HERE.addresses[0]
    with opened(sqlite_in(tmp_path), **settings) as command:
        leave(folder, ["on disk"])
        command.fill()
        yield command


# What is shown.


def test_status_counts_the_rows(database_url: str) -> None:
    with opened(database_url) as command:
        command.fill()
        shown = command.json("status")
        result = command("status")

    rows = shown["outbox"]["rows"]
    assert shown["outbox"]["table"] == command.place.table.name
    assert 0 <= rows.pop("oldest_age") < 600
    assert rows.pop("event_bytes") > 0
    assert rows == {"free": 1, "held": 1, "delayed": 1, "dead": 1}
    assert (shown["folder"], shown["files"], shown["unreadable"]) == (None, [], [])
    assert result.exit_code == 3
    title, heads, row = result.stdout.splitlines()
    assert title == f"Outbox of 'shop': {command.place.table.name}"
    assert heads == "FREE  HELD  DELAYED  DEAD  OLDEST  SIZE OF EVENTS"
    assert row.split()[:4] == ["1", "1", "1", "1"]


def test_an_empty_outbox_leaves_nothing_to_do(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path)) as command:
        result = command("status")

        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines()[1] == "No events are waiting."
        assert command.json("status")["outbox"]["rows"]["oldest_age"] is None


def test_status_shows_the_spool_and_the_outbox(both: Command) -> None:
    result = both("status")

    assert "Spool of 'shop'" in result.stdout
    assert "Outbox of 'shop'" in result.stdout
    assert both.json("status")["total"]["waiting"] == 1


def test_events_are_listed_with_where_they_are(both: Command) -> None:
    listed = both.lines("list")
    shown = {(e["store"], e["id"][:4], e["state"], e["reason"]) for e in listed}
    text = both("list").stdout.splitlines()

    assert len(listed) == 5
    assert listed == sorted(listed, key=lambda e: e["enqueued_at"])
    assert shown >= {
        ("outbox", "free", "waiting", None),
        ("outbox", "held", "waiting", None),
        ("outbox", "dela", "waiting", None),
        ("outbox", "dead", "dead", "never"),
    }
    assert {e["store"] for e in listed} == {"spool", "outbox"}
    assert text[0].split()[4] == "IN"
    assert [line.split()[5] for line in text[1:]].count("outbox") == 4


def test_a_row_says_when_it_is_sent_again(command: Command) -> None:
    by_id = {event["id"].rstrip("-"): event for event in command.lines("list")}

    assert 3000 < by_id["delayed"]["next_try"] <= 3600
    assert by_id["delayed"]["attempts"] is None
    assert by_id["dead"]["attempts"] == 2
    assert {by_id[s]["next_try"] for s in ("free", "held", "dead")} == {None}


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["--queue", "bills"], {"dead"}),
        (["--queue", "b*"], {"dead"}),
        (["--dead"], {"dead"}),
        (["--reason", "nev"], {"dead"}),
        (["--reason", "*"], {"dead"}),
        (["--older-than", "1d"], set()),
        (["--older-than", "0s"], {"free", "held", "delayed", "dead"}),
    ],
)
def test_rows_are_selected(
    command: Command, conditions: list[str], expected: set[str]
) -> None:
    listed = command.lines("list", *conditions)
    assert {event["id"].rstrip("-") for event in listed} == expected


def test_dead_rows_are_shown_with_their_reason(command: Command) -> None:
    shown = command("dead").stdout

    assert f"{full('dead')}  bills, " in shown
    assert shown.endswith(" old, in the outbox\n    never\n")


def test_one_row_is_shown_by_the_beginning_of_its_id(command: Command) -> None:
    details = command.json("show", "dela", "--payload")
    text = command("show", "dela").stdout

    assert details["payload"] == {"secret": "delayed"}
    assert details["path"] == command.place.table.name
    assert (details["process"], details["alive"]) == (None, None)
    assert f"outbox    {command.place.table.name}\n" in text
    assert "sent      2 times\n" in command("show", "dead").stdout
    assert "held by a process" not in text
    assert "held by a process" in command("show", "held").stdout


def test_an_unknown_id_is_named(command: Command) -> None:
    result = command("show", "nobody")

    assert result.exit_code == 1
    assert "No such event on disk or in the outbox: nobody." in result.stderr


# What is changed.


def test_dead_rows_are_retried(database_url: str) -> None:
    with opened(database_url) as command:
        command.fill()
        result = command("retry", "--all", "--yes")

        assert result.exit_code == 0
        assert result.stdout == "Retried 1 event of the outbox.\n"
        assert command.json("status")["outbox"]["rows"]["free"] == 2


def test_a_row_that_waits_is_not_retried(command: Command) -> None:
    result = command("retry", "delayed")

    assert result.exit_code == 1
    assert "Not dead, so already being retried" in result.stderr


def test_rows_that_no_process_holds_are_redirected(database_url: str) -> None:
    with opened(database_url) as command:
        command.fill()
        result = command("retry", "--queue", "*", "--to", "new", "--yes")
        shown = command.json("retry", "held", "--to", "new", "--yes")

        assert result.exit_code == 3
        assert result.stdout == "Redirected 3 events of the outbox.\n"
        assert "a process holds them to send them, so stop it first" in result.stderr
        assert f"gives them back then: {full('held')}" in result.stderr
        assert command.place.values("target_queue") == ["new", "q", "new", "new"]
        assert (shown["done"], shown["left"]) == ([], [full("held")])
        assert shown["unreadable"][0]["path"] == command.place.table.name


def test_rows_are_purged_and_reported(database_url: str) -> None:
    with opened(database_url) as command, Recorder(command.shop) as recorder:
        command.fill()
        result = command("purge", "--dead", "--yes")

        assert (result.exit_code, result.stdout) == (
            0,
            "Dropped 1 event of the outbox.\n",
        )
        assert command.ids() == ["free", "held", "delayed"]
        assert recorder.names() == ["events_dropped"]


def test_purge_shows_what_it_is_about_and_asks(command: Command) -> None:
    result = command("purge", "--queue", "q", input="n\n")

    assert result.exit_code == 1
    assert "q: 3 events" in result.stderr
    assert "Drop 3 events for good?" in result.stderr
    assert len(command.ids()) == 4


def test_files_and_rows_are_changed_together(both: Command) -> None:
    result = both("purge", "--queue", "q", "--yes")

    assert result.exit_code == 0
    assert "Dropped 3 events of the outbox." in result.stdout
    assert "Dropped 1 event of process" in result.stdout
    assert both.ids() == ["dead"]


# What fails.

COMMANDS = [["status"], ["list"], ["dead"], ["retry", "--all"], ["purge", "--dead"]]


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_a_missing_table_is_named(command: Command, args: list[str]) -> None:
    command.place.metadata.drop_all(command.place.engine)
    result = command(*args)

    assert result.exit_code == 3
    name = command.place.table.name
    assert f"{name} does not exist in the database: run your migr" in result.stderr


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_an_unreachable_database_is_named(tmp_path: Path, args: list[str]) -> None:
    with opened(sqlite_in(tmp_path)) as command:
        bad = sqlalchemy.create_engine(sqlite_in(tmp_path / "missing"))
        command.shop.events.bind_session(sessionmaker(bad), outbox=command.place.table)
        result = command(*args)

    assert result.exit_code == 3
    name = command.place.table.name
    assert f"{name}: the database failed (unable to open database" in result.stderr


def test_a_database_that_fails_hides_no_file(both: Command) -> None:
    both.place.metadata.drop_all(both.place.engine)
    (event, problem) = both.lines("list")
    shown = both.json("status")

    assert event["store"] == "spool"
    assert problem["unreadable"][0]["path"] == both.place.table.name
    assert shown["outbox"]["table"] == both.place.table.name
    assert shown["outbox"]["rows"] is None
    assert shown["outbox"]["strays"] == {}
    assert shown["total"]["waiting"] == 1
    assert "It can't be read." in both("status").stdout


def test_an_id_is_found_on_disk_where_the_table_can_t_be_read(both: Command) -> None:
    (event,) = (e for e in both.lines("list") if e["store"] == "spool")
    both.place.metadata.drop_all(both.place.engine)
    result = both("show", event["id"])

    assert result.exit_code == 3
    assert f"id        {event['id']}" in result.stdout
    assert "Can't read outbox_" in result.stderr


def test_an_event_on_disk_is_shown_without_a_column_for_its_place(
    both: Command,
) -> None:
    both("purge", "--reason", "*", "--yes")
    both("purge", "held", "free", "delayed", "--yes")

    heads = both("list").stdout.splitlines()[0]
    assert heads.split() == ["ID", "STATE", "AGE", "TARGET"]


def test_an_id_is_not_unknown_where_the_table_can_t_be_read(command: Command) -> None:
    command.place.metadata.drop_all(command.place.engine)
    result = command("show", "free")

    assert result.exit_code == 1
    assert "Can't read outbox_" in result.stderr


def test_an_engine_that_is_not_known_here_is_named(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path)) as command:
        command.shop.events.bind_session(sessionmaker(), outbox=command.place.table)
        result = command("status")

    assert result.exit_code == 3
    assert "the bound session has no engine for it here" in result.stderr


def test_a_change_that_fails_is_told(command: Command) -> None:
    with command.place.engine.begin() as connection:
        name = command.place.table.name
        connection.exec_driver_sql(
            f"CREATE TRIGGER no BEFORE DELETE ON {name}"
            " BEGIN SELECT RAISE(ABORT, 'read only'); END"
        )
    result = command("purge", "dead", "--yes")

    assert result.exit_code == 3
    assert f"Not changed: {name}: the database failed (read only)" in result.stderr


def test_files_of_a_spool_that_is_none_any_more_are_named(
    tmp_path: Path, folder: Path
) -> None:
    leave(folder, ["left"])
    settings = {"SPOOL_DIR": str(folder), "BROKER_URL": "memory://"}
    with opened(sqlite_in(tmp_path), **settings) as command:
        result = command("list")
        status = command("status")

    assert (result.exit_code, status.exit_code) == (3, 3)
    assert "Can't read shop@" in result.stderr
    assert "Can't read shop@" in status.stderr


def test_tests_write_no_rows_so_they_have_no_outbox(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path), TESTING_BROKER=False) as command:
        assert command("status").exit_code == 4


# Its tables.


def test_tables_as_expected_are_fine(database_url: str) -> None:
    with opened(database_url) as command:
        result = command("outbox", "check")
        shown = command.json("outbox", "check")

    name = command.place.table.name
    assert (result.exit_code, result.stdout) == (0, f"{name} is as expected.\n")
    assert shown == {"table": name, "differences": []}


def test_each_difference_is_named_with_its_cure(command: Command) -> None:
    name = command.place.table.name
    with command.place.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP INDEX {name}_due")
    result = command("outbox", "check")
    shown = command.json("outbox", "check")

    assert result.exit_code == 3
    assert result.stdout.startswith(f"There is no index {name}_due: CREATE INDEX")
    assert shown["differences"][0]["what"] == f"There is no index {name}_due"


def test_what_can_t_be_reached_can_t_be_checked(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path)) as command:
        bad = sqlalchemy.create_engine(sqlite_in(tmp_path / "missing"))
        command.shop.events.bind_session(sessionmaker(bad), outbox=command.place.table)
        result = command("outbox", "check")

    assert result.exit_code == 1
    assert "the database failed (unable to open database" in result.stderr


def test_the_ddl_creates_tables_as_expected(database_url: str) -> None:
    with opened(database_url) as command:
        statements = command("outbox", "ddl").stdout.split(";\n\n")[:-1]
        command.place.metadata.drop_all(command.place.engine)
        with command.place.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

        assert command("outbox", "check").exit_code == 0


def test_the_ddl_needs_to_know_the_kind_of_database(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path)) as command:
        command.shop.events.bind_session(sessionmaker(), outbox=command.place.table)
        result = command("outbox", "ddl")

    assert result.exit_code == 1
    assert "the bound session has no engine for it here" in result.stderr


def test_an_app_without_an_outbox_is_told_what_to_call() -> None:
    with open_shop() as shop:
        result = runner(shop).invoke(args=["events", "outbox", "check"])

    assert result.exit_code == 1
    assert "no outbox: call events.bind_session(" in result.stderr


def test_delayed_events_are_shown_with_what_they_say_of_themselves(
    command: Command,
) -> None:
    about = Properties(delay=9000, priority=5)
    command.place.write(
        command.place.outbox(), ["later"], held=True, id="some-event", properties=about
    )

    (line,) = (e for e in command.lines("list") if e["id"] == "some-event")
    shown = command.json("show", "some-event")
    told = command("list").stdout

    assert (line["state"], line["store"]) == ("delayed", "outbox")
    assert 8000 < line["next_try"] <= 9000
    assert shown["properties"] == {"priority": 5, "delay": 9000}
    assert any("some-event" in row and "in " in row for row in told.splitlines())
