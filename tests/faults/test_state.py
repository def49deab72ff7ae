"""The state of the app under test, and what the rig sees of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from flask_eventcollector.stores.outbox.clock import now_ms
from tests.faults.naive_outbox import NaiveOutbox, send_some
from tests.faults.state import OUTBOX, Database, Databases, State, Watch
from tests.helpers import wait_until

#: In seconds; far longer than this test takes.
LEASE = 60.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Databases() as databases:
        yield databases.new("sqlite", tmp_path)


@pytest.fixture
def state(database: Database) -> Iterator[State]:
    state = State(database.url)
    yield state
    state.engine.dispose()


def new_row(**values: Any) -> dict[str, Any]:
    """A row of the outbox that a process holds."""
    return {
        **{"app": "faults", "token": "someone", "maybe_sent": False},
        **{"exchange": "", "target_queue": "orders", "event_id": "1"},
        **{"enqueued_at": 0, "size": 1, "headers": "{}", "body": b"1"},
        **values,
    }


def test_only_what_is_committed_is_state(state: State, database: Database) -> None:
    with state.taken_back():
        state.write("rolled back")
    with state.transaction():
        state.write("committed")
        with state.savepoint_taken_back():
            state.write("rolled back to a savepoint")

    assert database.committed() == {"committed"}


def test_a_row_is_stuck_once_its_lease_has_run_out(
    state: State, database: Database
) -> None:
    with state.transaction():
        state.sessions.execute(insert(OUTBOX).values(due=now_ms() + 1000, **new_row()))
    now, since = database.stuck(LEASE)
    assert since == now
    assert database.unsent() == 1

    with state.transaction():
        state.sessions.execute(update(OUTBOX).values(due=now_ms() - 1000))
    now, since = database.stuck(LEASE)
    assert 61_000 <= now - since < 90_000


def test_a_row_that_nobody_has_held_is_stuck_since_it_was_enqueued(
    state: State, database: Database
) -> None:
    now, _ = database.stuck(LEASE)
    row = new_row(token=None, enqueued_at=1000 * (now - 5000))
    with state.transaction():
        state.sessions.execute(insert(OUTBOX).values(due=0, **row))

    now, since = database.stuck(LEASE)
    assert now - since >= 5000


def test_a_watch_notes_the_longest_time_but_not_that_before_its_begin(
    state: State, database: Database
) -> None:
    with Watch(database, LEASE) as watch:
        wait_until(lambda: watch._since, "it has looked")
        with state.transaction():
            state.sessions.execute(insert(OUTBOX).values(due=1, **new_row()))
        wait_until(lambda: watch.longest > 0.2, "it has noted a row")

    assert watch.longest < 60


def test_the_naive_outbox_sends_what_is_committed_and_marks_it(
    state: State, database: Database
) -> None:
    naive: Any = NaiveOutbox(state)
    with state.transaction():
        naive.enqueue_event({"key": "a"}, "orders")
    with state.taken_back():
        naive.enqueue_event({"key": "b"}, "orders")
    sent: list[tuple[str, bytes]] = []
    assert database.unsent() == 1

    with state.engine.begin() as connection:
        count = send_some(connection, lambda *event: sent.append(event))

    assert sent == [("orders", b'{"key": "a"}')]
    assert (count, database.unsent()) == (1, 0)
