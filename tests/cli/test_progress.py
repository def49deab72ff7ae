"""How far a command is, where there is no terminal."""

from __future__ import annotations

import os
import pty
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from flask_eventcollector.cli import commands, formatting, progress
from flask_eventcollector.stores.spool.admin import changes
from tests.cli.support import FlaskEvents, Run, runner
from tests.helpers import open_shop
from tests.rabbitmq import free_ports
from tests.spool.support import HERE, leave


class Clock:
    """A clock that a test sets."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        patch.setattr(progress, "time", clock)


@contextmanager
def opened_spool(folder: Path) -> Iterator[Run]:
    """The commands of an app with this spool."""
    settings = {"BROKER_URL": HERE.addresses[0], "SPOOL_DIR": str(folder)}
    with open_shop(BACKLOG="spool", TESTING_BROKER=True, **settings) as shop:
        yield lambda *args: runner(shop).invoke(args=["events", *args])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_line_is_written_now_and_then(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress(5000, "Delivering") as on_progress:
        for second in range(100, 131):
            clock.now = float(second)
            on_progress(100)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "Delivering: 1 100 of 5 000 after 10 s",
        "Delivering: 2 100 of 5 000 after 20 s",
        "Delivering: 3 100 of 5 000 after 30 s",
    ]


def test_a_command_that_takes_seconds_is_silent(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress(1, "Delivering") as on_progress:
        clock.now += 9.9
        on_progress(1)
    assert capsys.readouterr().err == ""


def test_what_can_not_be_counted_is_shown_without_its_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress(0, "Importing", formatting.size) as on_progress:
        clock.now += 75
        on_progress(2048)
    assert capsys.readouterr().err == "Importing: 2.0 KiB after 1 min\n"


@pytest.mark.usefixtures("clock")
def test_a_flush_says_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if nothing is delivered."""
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    url = f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/"
    leave(tmp_path, [1, 2], destination=None)
    settings = {"BROKER_URL": url, "SPOOL_DIR": str(tmp_path), "BACKLOG": "spool"}
    with open_shop(TESTING_BROKER=True, **settings) as shop:
        args = ["events", "flush", "--timeout", "0.2", "--json"]
        result = runner(shop).invoke(args=args)
    assert result.exit_code == 3
    assert "Delivering: 0 of 2 after 0 s\n" in result.stderr
    assert "Delivering" not in result.stdout


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["purge", "--queue", "q", "--yes"], "Dropping"),
        (["retry", "--queue", "q", "--to", "other", "--yes"], "Redirecting"),
        (["export", "FILE", "--remove"], "Removing"),
    ],
    ids=["purge", "redirect", "export"],
)
def test_what_changes_many_events_says_how_far_it_is(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    monkeypatch.setattr(changes, "_PAGE", 2)
    leave(folder, range(3))
    leave(folder, range(3, 5))
    file = str(tmp_path / "events.jsonl")
    with opened_spool(folder) as run:
        result = run(*(file if one == "FILE" else one for one in args))
    assert result.exit_code == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith(said)]
    assert lines[-1] == f"{said}: 5 of 5 after 0 s"
    assert len(lines) == 3
    assert said not in result.stdout


def test_a_bar_fits_into_a_narrow_terminal(folder: Path) -> None:
    leave(folder, range(1000))
    events = FlaskEvents(folder, HERE.addresses[0])
    *bars, said = on_terminal(events, 50, "purge", "--queue", "q", "--yes")
    assert "Dropping" in bars[0]
    assert "1000/1000" in bars[-1]
    assert max(map(len, bars)) <= 50
    assert said == "Dropped 1000 events for q: purged."


def test_a_log_line_does_not_break_a_bar(folder: Path) -> None:
    leave(folder, [1, 2], destination=None)
    url = f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/"
    lines = on_terminal(FlaskEvents(folder, url), 300, "flush", "--timeout", "5")
    (logged,) = [line for line in lines if "Broker unavailable" in line]
    assert logged.startswith("Broker unavailable")
    assert lines[0].endswith("0/2")


def on_terminal(events: FlaskEvents, columns: int, *args: str) -> list[str]:
    """What a command shows on stderr, which is a terminal, as people see it."""
    events.environment["COLUMNS"] = str(columns)
    control, terminal = pty.openpty()
    with events.started(*args, stderr=terminal) as command:
        os.close(terminal)
        written = b"".join(iter(partial(_read, control), b"")).decode()
        command.wait(60)
    os.close(control)
    seen = re.sub(r"\x1b\[\??[0-9]*[A-Za-z]", "", written)
    return [line.rstrip() for line in re.split(r"[\r\n]+", seen) if line.strip()]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux: nobody writes to it any more.
        return b""


@pytest.mark.usefixtures("clock")
def test_the_rows_of_the_outbox_are_changed_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sqlalchemy")
    from flask_eventcollector.backlog import outbox
    from tests.cli.test_outbox import opened, sqlite_in

    monkeypatch.setattr(progress, "_EVERY", 0.0)
    monkeypatch.setattr(outbox, "_PAGE", 2)
    with opened(sqlite_in(tmp_path)) as command:
        command.fill()
        redirected = command("retry", "--queue", "q", "--to", "other", "--yes")
        purged = command("purge", "--older-than", "0s", "--yes")
    assert "Redirecting: 3 of 3 after 0 s\n" in redirected.stderr
    assert "Dropping: 2 of 4 after 0 s\n" in purged.stderr
    assert "Dropping: 4 of 4 after 0 s\n" in purged.stderr


def test_what_was_delivered_in_the_meantime_keeps_no_other_from_being_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = leave(folder, ["a"]), leave(folder, ["b"])
    monkeypatch.setattr(commands, "confirm", lambda _: first.unlink())
    with opened_spool(folder) as run:
        result = run("purge", "--queue", "q")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Dropped 1 event of process ")
    assert not second.exists()


def test_a_change_of_what_was_all_delivered_in_the_meantime_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [leave(folder, ["a"]), leave(folder, ["b"])]
    monkeypatch.setattr(commands, "confirm", lambda _: [*map(os.remove, files)])
    with opened_spool(folder) as run:
        result = run("purge", "--queue", "q")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "The events have been delivered in the meantime" in result.stderr


def test_what_was_changed_before_an_interrupt_is_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(*args: object) -> Iterator[Callable[[int], object]]:
        yield lambda _: None
        raise KeyboardInterrupt

    leave(folder, ["a"])
    monkeypatch.setattr(commands, "progress", interrupted)
    with opened_spool(folder) as run:
        result = run("purge", "--queue", "q", "--yes")
    assert result.exit_code == 1
    assert result.stdout.startswith("Dropped 1 event of process ")
    assert "Aborted!" in result.stderr
