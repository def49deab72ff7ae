"""``flask events purge-seen``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from click.testing import Result
from sqlalchemy.orm import Session

from tests.cli.support import runner
from tests.consuming.support import metadata, seen
from tests.helpers import Shop, open_shop


class Command:
    """Calls the command; the app's inbox has one old message and a new one."""

    def __init__(self, shop: Shop, path: Path) -> None:
        self.shop = shop
        self.engine = sqlalchemy.create_engine(f"sqlite:///{path}")

    def fill(self) -> None:
        metadata.create_all(self.engine)
        with self.shop.app_context(), self.session() as session:
            session.execute(
                seen.insert().values(consumer="a", message_id="7", seen_at=0)
            )
            with self.shop.events.once(session, "8", consumer="a"):
                session.commit()

    def session(self) -> Session:
        return Session(self.engine)

    def __call__(self, *args: str, input: str = "") -> Result:
        result = runner(self.shop).invoke(
            args=["events", "purge-seen", *args], input=input
        )
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    def count(self) -> int:
        with self.session() as session:
            return len(session.execute(seen.select()).all())


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with open_shop() as shop:
        command = Command(shop, tmp_path / "a.sqlite3")
        shop.events.bind_session(command.session, inbox=seen)
        command.fill()
        yield command
        command.engine.dispose()


def test_it_asks_and_deletes_what_is_old(command: Command) -> None:
    result = command(input="y\n")

    assert "Forget 1 handled message, more than 14 d old?" in result.stderr
    # click before 8.2 writes a part of the question there.
    assert result.stdout.endswith("Forgot 1 message.\n")
    assert result.exit_code == 0
    assert command.count() == 1


@pytest.mark.parametrize("answer", ["", "n\n"])
def test_without_a_yes_it_deletes_nothing(command: Command, answer: str) -> None:
    result = command(input=answer)

    assert result.exit_code == 1
    assert "nothing was done: add --yes" in result.stderr
    assert command.count() == 2


def test_with_yes_it_asks_nobody(command: Command) -> None:
    result = command("--older-than", "0s", "--yes")

    assert (result.exit_code, result.stdout) == (0, "Forgot 2 messages.\n")
    assert command.count() == 0


def test_where_nothing_is_old_it_does_not_ask(command: Command) -> None:
    command("--yes")

    assert command().stdout == "Forgot 0 messages.\n"


def test_it_writes_json(command: Command) -> None:
    assert json.loads(command("--json", "--yes").stdout) == {"deleted": 1}
    assert command("--json").exit_code == 2


@pytest.mark.parametrize("age", ["14", "-1d", "soon"])
def test_what_is_no_age_is_refused(command: Command, age: str) -> None:
    assert command("--older-than", age, "--yes").exit_code == 2


def test_a_missing_table_is_named(command: Command) -> None:
    metadata.drop_all(command.engine)
    result = command("--yes")

    assert result.exit_code == 1
    assert "no table 'eventcollector_seen'" in result.stderr


def test_an_unreachable_database_is_an_error_without_a_traceback(
    command: Command, tmp_path: Path
) -> None:
    command.engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/missing/a")
    result = command("--yes")

    assert result.exit_code == 1
    assert "unable to open database file" in result.stderr


def test_without_an_inbox_it_says_what_to_call() -> None:
    with open_shop() as shop:
        result = runner(shop).invoke(args=["events", "purge-seen", "--yes"])

    assert result.exit_code == 1
    assert "events.bind_session(" in result.stderr
