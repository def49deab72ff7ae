"""``events.purge_seen()`` deletes what is old."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

from flask_eventcollector import ConfigurationError, EventCollector
from flask_eventcollector.consuming import inbox as inbox_module
from tests.consuming.support import Consumer, bookings, metadata, seen
from tests.helpers import DEADLINE

DAY = 86_400_000_000


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "_BATCH", 3)


def note(engine: sqlalchemy.Engine | sqlalchemy.Connection, *days: float) -> None:
    """Add messages that were handled so many days ago."""
    now = time.time_ns() // 1000
    rows = [
        {"consumer": "a", "message_id": str(i), "seen_at": now - int(age * DAY)}
        for i, age in enumerate(days)
    ]
    with Session(engine) as session:
        session.execute(seen.insert(), rows)
        session.commit()


def left(consumer: Consumer) -> list[str]:
    with consumer.session() as session:
        return list(session.scalars(select(seen.c.message_id)))


@pytest.mark.parametrize("old", [0, 1, 3, 7])
def test_what_is_older_than_two_weeks_is_deleted_in_batches(
    consumer: Consumer, old: int
) -> None:
    note(consumer.engine, *[15 + i for i in range(old)], 13, 0)
    deletes: list[str] = []

    def note_statement(*about: Any) -> None:
        deletes.extend([about[2]] * about[2].startswith("DELETE"))

    sqlalchemy.event.listen(consumer.engine, "before_cursor_execute", note_statement)

    assert consumer.events.purge_seen() == old

    assert left(consumer) == [str(old), str(old + 1)]
    assert len(deletes) == -(-old // 3)


def test_rows_of_several_consumers_are_deleted(consumer: Consumer) -> None:
    with consumer.session() as session:
        for number in range(7):
            consumer.handle(session, str(number), f"consumer {number % 2}")
        session.commit()

    assert consumer.events.purge_seen(older_than=timedelta(0)) == 7


def test_a_row_that_is_new_again_by_then_stays(consumer: Consumer) -> None:
    note(consumer.engine, 15)

    commits = itertools.count()

    def renew(*_: object) -> None:
        if next(commits):
            return
        with Session(consumer.engine) as session:
            session.execute(seen.update().values(seen_at=time.time_ns() // 1000))
            session.commit()

    # Once it is known what is old.
    sqlalchemy.event.listen(consumer.engine, "commit", renew)

    assert consumer.events.purge_seen() == 0
    assert left(consumer) == ["0"]


def test_the_age_may_be_another_one(consumer: Consumer) -> None:
    note(consumer.engine, 3, 1, 0)

    assert consumer.events.purge_seen(older_than=timedelta(days=2)) == 1
    assert consumer.events.purge_seen(older_than=timedelta(0)) == 2


def test_a_message_that_was_purged_is_first_again(consumer: Consumer) -> None:
    with consumer.session() as session:
        consumer.handle(session)
        session.commit()
        consumer.events.purge_seen(older_than=timedelta(0))

        assert consumer.handle(session)


def test_it_does_not_end_the_callers_transaction(on_postgresql: Consumer) -> None:
    note(on_postgresql.engine, 15)
    with on_postgresql.session() as session:
        on_postgresql.events.bind_session(session, inbox=seen)
        session.execute(bookings.insert())

        assert on_postgresql.events.purge_seen() == 1
        session.rollback()

    assert on_postgresql.count() == 0


def session_of(engine: sqlalchemy.Engine) -> Session:
    return Session(engine)


@pytest.mark.parametrize(
    "source_of",
    [sessionmaker, session_of, lambda engine: lambda: Session(engine)],
    ids=["sessionmaker", "session", "function"],
)
def test_what_can_be_bound(
    consumer: Consumer, source_of: Callable[[sqlalchemy.Engine], Any]
) -> None:
    note(consumer.engine, 15)
    consumer.events.bind_session(source_of(consumer.engine), inbox=seen)

    assert consumer.events.purge_seen() == 1


def test_under_a_fixture_that_rolls_back_it_stays_in_the_outer_transaction(
    consumer: Consumer,
) -> None:
    with consumer.engine.connect() as connection, connection.begin() as outer:
        consumer.events.bind_session(lambda: Session(connection), inbox=seen)
        note(connection, 15, 16, 17, 18)
        assert consumer.events.purge_seen() == 4
        outer.rollback()

    assert left(consumer) == []


def test_the_database_in_memory_has_one_connection() -> None:
    engine = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    consumer = Consumer(engine)
    note(engine, 15)

    assert consumer.events.purge_seen() == 1
    engine.dispose()


@pytest.mark.parametrize(
    ("age", "error", "text"),
    [
        (14, TypeError, r"older_than is of type int: pass a timedelta, such as"),
        (timedelta(-1), ValueError, "must be a timedelta of at least 0, not -1 day"),
    ],
)
def test_an_age_that_is_none_is_refused(
    tmp_path: Path, age: Any, error: type[Exception], text: str
) -> None:
    consumer = Consumer(sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'a'}"))
    with pytest.raises(error, match=text):
        consumer.events.purge_seen(older_than=age)


def test_without_a_table_it_says_what_to_call() -> None:
    with pytest.raises(ConfigurationError, match=r"events\.bind_session"):
        EventCollector().purge_seen()


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_it_does_not_wait_for_consumers_and_they_do_not_wait_for_it(
    request: pytest.FixtureRequest, server: str
) -> None:
    consumer: Consumer = request.getfixturevalue(f"on_{server}")
    # The open row is the next one in the index of times.
    note(consumer.engine, *[15] * 4)
    with consumer.session() as session:
        consumer.handle(session, "new")
        purging = threading.Thread(target=consumer.events.purge_seen, daemon=True)
        purging.start()
        purging.join(DEADLINE)
        assert not purging.is_alive()
        session.commit()

    assert left(consumer) == ["new"]
