"""SQLite selects the rows that an operator means, before they are decoded."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_eventcollector.delivery.entries import Entry, State
from flask_eventcollector.delivery.refusals import Refusal
from flask_eventcollector.stores.filter import ALL, Filter
from flask_eventcollector.stores.spool import refusals
from flask_eventcollector.stores.spool.admin import reading
from flask_eventcollector.stores.spool.admin.reading import (
    Found,
    Unreadable,
    events_in,
)
from flask_eventcollector.stores.spool.folder import Folder
from flask_eventcollector.stores.spool.journal import Journal
from flask_eventcollector.stores.spool.rows import row_of
from tests.parts import make_event
from tests.spool.support import APP, HERE, leave

#: What has a meaning in a pattern, and what is not ASCII.
NAMES = st.text("aAb*?[]!-% ü", min_size=1, max_size=4)
#: The queue of each event, and why it is dead, or was refused.
EVENTS = st.lists(st.tuples(NAMES, st.none() | NAMES, st.none() | NAMES), max_size=6)
FILTERS = st.builds(
    Filter,
    queue=st.none() | NAMES,
    dead=st.booleans(),
    waiting=st.booleans(),
    reason=st.none() | NAMES | st.just("behind an event that was refused: *"),
    older_than=st.sampled_from([None, 0.0, 1e6, float("inf")]),
)


def found_in(folder: Path, wanted: Filter = ALL) -> tuple[list[Found], list[str]]:
    problems: list[Unreadable] = []
    found = [*events_in(Folder(folder, APP, HERE), problems, wanted)]
    return found, [problem.reason for problem in problems]


def fill(path: Path, events: list[tuple[str, str | None, str | None]]) -> None:
    """Replace what is in the file *path*, and beside it."""
    rows, left = [], []
    for number, (queue, dead, refused) in enumerate(events):
        entry = Entry(make_event(number, queue, id=str(number)))
        if dead is not None:
            entry.state, entry.reason = State.DEAD, dead
        elif refused is not None:
            left.append(Refusal(str(number), "", queue, refused, 1, time.time(), None))
        rows.append(row_of(entry, number))
    with closing(Journal.open(path)) as journal:
        journal.write((), range(10))
        journal.write(rows)
    Path(f"{path}.refusals").touch()
    refusals._write(path, left)


def is_wanted(found: Found, wanted: Filter) -> bool:
    return (
        wanted.selects_state(dead=found.state == "dead")
        and wanted.selects_queue(found.event.target)
        and wanted.selects_age(found.event)
        and wanted.selects_reason(found.reason)
    )


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(events=EVENTS, wanted=FILTERS)
def test_it_selects_what_python_selects(
    tmp_path: Path, events: list[tuple[str, str | None, str | None]], wanted: Filter
) -> None:
    path = next(tmp_path.glob("*.spool"), None) or leave(tmp_path, [])
    fill(path, events)

    everything, _ = found_in(tmp_path)
    expected = [found.event.id for found in everything if is_wanted(found, wanted)]

    found, problems = found_in(tmp_path, wanted)
    assert ([one.event.id for one in found], problems) == (expected, [])


@pytest.mark.parametrize(
    "wanted", [Filter(reason="no"), Filter(older_than=60), Filter(queue="other")]
)
def test_what_is_not_meant_is_not_decoded(
    tmp_path: Path, wanted: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    monkeypatch.setattr(reading, "read_row", lambda row: decoded.append(row))
    fill(leave(tmp_path, []), [("q", "gone", None), ("q", None, None)])

    assert found_in(tmp_path, wanted) == ([], [])
    assert decoded == []


def test_an_event_is_found_by_what_keeps_it_waiting(tmp_path: Path) -> None:
    fill(leave(tmp_path, []), [("q", None, "no queue"), ("q", None, None)])

    first, behind = found_in(tmp_path, Filter(reason="no queue"))[0]

    assert first.reason == "no queue"
    assert behind.reason == "behind an event that was refused: no queue"


@pytest.mark.parametrize(
    ("column", "value", "wanted"),
    [
        ("enqueued_at", "text", Filter(older_than=60)),
        ("dead", b"no \xff queue", Filter(reason="queue")),
        ("queue", b"other.\xff", Filter(queue="other.*")),
    ],
)
def test_a_row_that_may_be_meant_but_for_its_damage_is_told(
    tmp_path: Path, column: str, value: object, wanted: Filter
) -> None:
    path = leave(tmp_path, ["a"])
    with closing(sqlite3.connect(path)) as connection:
        text = "?" if isinstance(value, str) else "CAST(? AS TEXT)"
        connection.execute(f"UPDATE events SET {column} = {text}", (value,))
        connection.commit()

    found, problems = found_in(tmp_path, wanted)

    assert (found, len(problems)) == ([], 1)
    assert "is damaged" in problems[0]
