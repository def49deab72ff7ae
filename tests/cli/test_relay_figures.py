"""What a relay shows."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from typing import cast

import pytest

pytest.importorskip("sqlalchemy")

from flask_eventcollector import BrokerState
from flask_eventcollector.backlog.outbox import OutboxRows
from flask_eventcollector.cli import relay_figures
from flask_eventcollector.cli.relay_figures import (
    Counting,
    Figures,
    Lines,
    Silence,
    Terminal,
)
from flask_eventcollector.events import Stats
from flask_eventcollector.stores.outbox.admin import Counts
from flask_eventcollector.stores.spool.admin.reading import Unreadable


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which the tests may change."""
    now = [1000.0]
    monkeypatch.setattr(f"{relay_figures.__name__}.time.monotonic", lambda: now[0])
    return now


def figures(
    role: str = "active",
    confirmed: int = 0,
    broker: BrokerState = BrokerState.READY,
    *,
    error: str = "",
    failure: Unreadable | None = None,
) -> Figures:
    oldest = datetime.now(timezone.utc) - timedelta(seconds=90)
    counts = Counts(3, 2, 1, 4, 100, oldest)
    stats = Stats(confirmed=confirmed, broker=broker, broker_error=error)
    return Figures(role, stats, counts, failure)


def test_a_terminal_has_one_line_that_changes(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    clock[0] += 2
    terminal.show(figures(confirmed=500))
    # It is new.
    terminal.show(figures(confirmed=600))
    clock[0] += 1
    terminal.end(figures("ended", confirmed=600))

    # What clears the rest of the line, click leaves out where there is no terminal.
    first, last = capsys.readouterr().err.split("\r")[1:]
    waits = "6 waiting  oldest 1 min  4 dead"
    assert first == f"active  250/s  500 sent  {waits}"
    assert last == f"ended  100/s  600 sent  {waits}\n"


def test_a_terminal_shows_why_events_wait(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Terminal().end(figures(broker=BrokerState.DOWN, error="no\nroute"))
    assert "  no\\nroute" in capsys.readouterr().err


def test_lines_are_written_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines()
    unknown = figures()._replace(counts=None)
    lines.show(unknown)
    lines.show(figures())
    clock[0] += 5
    lines.show(figures())
    lines.show(figures("standby"))
    clock[0] += 10
    lines.show(figures("standby", confirmed=50))
    written = [*map(json.loads, capsys.readouterr().out.splitlines())]
    assert [line["role"] for line in written] == ["active", "standby", "standby"]
    assert [line["rate"] for line in written] == [0, 0, 5]
    assert written[0]["waiting"] == 6
    assert 90 <= written[0]["oldest_age"] < 100


def test_a_database_that_fails_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    failure = Unreadable("outbox", "the database failed")
    Lines().show(figures(failure=failure)._replace(counts=None))
    line = json.loads(capsys.readouterr().out)
    assert line["problem"] == str(failure)
    assert line["waiting"] is None


def test_a_service_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silence = Silence()
    silence.show(figures())
    silence.end(figures())
    assert capsys.readouterr() == ("", "")


class Rows:
    """A table whose count takes a tenth of a second."""

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock
        self.counted = 0

    def counts(self, newest: int | None) -> Counts:
        self.counted += 1
        self._clock[0] += 0.1
        return Counts(1, 0, 0, 0, 0, None)


@pytest.mark.parametrize(
    ("pause", "counted"),
    [(0.2, 5), (5.0, 2), (math.inf, 0)],
    ids=["a twentieth of the time", "the pause", "nobody looks"],
)
def test_a_count_costs_little(clock: list[float], pause: float, counted: int) -> None:
    rows = Rows(clock)
    counting = Counting(cast(OutboxRows, rows), None, lambda: pause)
    for _ in range(100):
        clock[0] += min(0.1, max(0.0, counting._run_once()))
    assert rows.counted == counted
