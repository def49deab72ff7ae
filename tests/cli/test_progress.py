"""How far a command is, where there is no terminal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from flask_eventcollector.cli import formatting, progress
from tests.cli.support import runner
from tests.helpers import open_shop
from tests.rabbitmq import free_ports
from tests.spool.support import leave


class Clock:
    """A clock that a test sets."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        patch.setattr(progress, "time", clock)


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
