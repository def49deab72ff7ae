"""The command ``why`` for rows of the outbox."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.cli.histories import killed, line, next_of
from tests.cli.test_outbox import full, opened, sqlite_in


@pytest.mark.parametrize(
    ("id", "mode", "next_"),
    [
        (full("free"), "own", "a process of the app takes its row of the outbox, and"),
        (full("free"), "external", "nothing: no relay is active, so run 'flask events"),
        (full("held"), "own", "the process that holds its row of the outbox sends it"),
        (full("delayed"), "own", "it is sent again in 59 min"),
    ],
)
def test_the_sender_of_a_row_is_told(
    tmp_path: Path, id: str, mode: str, next_: str
) -> None:
    with opened(sqlite_in(tmp_path), OUTBOX_RELAY=mode) as command:
        command.fill()
        assert next_of(command.shop, id).startswith(next_)


def test_the_active_relay_is_named(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path), OUTBOX_RELAY="external") as command:
        command.fill()
        assert command.place.leadership("7").lead()
        told = next_of(command.shop, full("free"))
    assert told == "the active relay sends it: process 7"


def test_a_row_outlives_the_process_that_holds_it(tmp_path: Path) -> None:
    history = tmp_path / "history"
    with opened(sqlite_in(tmp_path), HISTORY_DIR=str(history)) as command:
        command.fill()
        killed(history, line("sent", full("held")))
        told = next_of(command.shop, full("held"))
    assert told.startswith(
        "process 4711, which holds its row of the outbox, is gone: another one takes it"
        " in "
    )


def test_a_row_that_is_gone_was_sent(tmp_path: Path) -> None:
    """By a relay on another machine, for example."""
    history = tmp_path / "history"
    with opened(sqlite_in(tmp_path), HISTORY_DIR=str(history)) as command:
        command.fill()
        killed(history, line("outboxed", "some-event"))
        assert next_of(command.shop, "some-event").startswith(
            "nothing: its row is no longer in the outbox"
        )


def test_an_outbox_that_can_not_be_read_may_have_the_event(tmp_path: Path) -> None:
    history = tmp_path / "history"
    with opened(sqlite_in(tmp_path), HISTORY_DIR=str(history)) as command:
        killed(history, line("sent", "some-event"))
        command.place.table.drop(command.place.engine)
        told = next_of(command.shop, "some-event")
    assert told.startswith("nothing, unless it is in what can't be read")
