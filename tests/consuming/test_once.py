"""``events.once()``: a message is noted in the transaction of its work."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy
from sqlalchemy import Engine, Update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flask_eventcollector import ConfigurationError, EventCollector, make_inbox_table
from tests.consuming.support import Consumer, bookings, consumer_on, metadata, seen


class Broken(Exception):
    """The work failed."""


def test_a_message_is_first_once(consumer: Consumer) -> None:
    for expected in (True, False, False):
        with consumer.session() as session:
            assert consumer.handle(session) is expected
            session.commit()

    assert consumer.count() == consumer.count(seen) == 1


def test_within_a_transaction_it_is_first_once_as_well(consumer: Consumer) -> None:
    with consumer.session() as session:
        assert [consumer.handle(session) for _ in range(2)] == [True, False]


def test_each_consumer_and_each_message_counts_by_itself(consumer: Consumer) -> None:
    keys = [("7", "billing"), ("7", "mail"), ("8", "billing"), ("8", "Billing")]
    keys += [("A", "billing"), ("a", "billing"), ("é", "billing"), ("e", "billing")]
    with consumer.session() as session:
        assert all(consumer.handle(session, *key) for key in keys)
        session.commit()
        assert not any(consumer.handle(session, *key) for key in keys)


def test_the_longest_names_fit(consumer: Consumer) -> None:
    with consumer.session() as session:
        assert consumer.handle(session, "i" * 255, "c" * 255)
        assert consumer.handle(session, "i" * 254 + "j", "c" * 255)
        session.commit()


def test_a_rollback_takes_the_note_back(consumer: Consumer) -> None:
    with consumer.session() as session:
        assert consumer.handle(session)
        session.rollback()
        assert consumer.handle(session)
        session.commit()

    assert consumer.count() == consumer.count(seen) == 1


def test_a_session_that_is_closed_takes_the_note_back(consumer: Consumer) -> None:
    with consumer.session() as session:
        assert consumer.handle(session)

    assert consumer.count(seen) == 0


def test_the_block_may_commit(consumer: Consumer) -> None:
    with consumer.session() as session, consumer.once(session) as first:
        assert first
        session.execute(bookings.insert())
        session.commit()

    assert consumer.count() == consumer.count(seen) == 1


def test_a_block_that_raises_leaves_no_note_in_a_transaction_that_is_committed(
    consumer: Consumer,
) -> None:
    with consumer.session() as session:
        with suppress(Broken), consumer.once(session):
            raise Broken
        session.execute(bookings.insert())
        session.commit()

    assert consumer.count() == 1
    assert consumer.count(seen) == 0


def test_a_copy_that_raises_leaves_the_note_of_the_first(consumer: Consumer) -> None:
    with consumer.session() as session:
        consumer.handle(session)
        session.commit()
        with suppress(Broken), consumer.once(session) as first:
            raise Broken
        session.commit()

    assert not first
    assert consumer.count(seen) == 1


def test_what_the_block_has_committed_stays_noted_if_it_raises(
    consumer: Consumer,
) -> None:
    with consumer.session() as session:
        with suppress(Broken), consumer.once(session):
            session.commit()
            raise Broken
        session.commit()

    assert consumer.count(seen) == 1


def test_a_transaction_that_the_database_has_given_up_stays_as_it_is(
    consumer: Consumer,
) -> None:
    def book_twice(session: Session) -> None:
        with consumer.once(session):
            for _ in range(2):
                session.execute(bookings.insert().values(id=7))

    with consumer.session() as session:
        with pytest.raises(IntegrityError):
            book_twice(session)
        session.rollback()

    assert consumer.count(seen) == 0


def test_a_savepoint_that_is_rolled_back_takes_its_note_back(
    consumer: Consumer,
) -> None:
    with consumer.session() as session:
        # The driver of SQLite begins no transaction for a savepoint.
        session.execute(bookings.insert())
        with suppress(Broken), session.begin_nested():
            consumer.handle(session, "7")
            raise Broken
        consumer.handle(session, "8")
        session.commit()

    assert (consumer.count(), consumer.count(seen)) == (2, 1)


def test_it_flushes_nothing(consumer: Consumer) -> None:
    class Booking:
        pass

    registry = sqlalchemy.orm.registry()
    registry.map_imperatively(Booking, bookings)
    with consumer.session() as session:
        session.add(Booking())
        with consumer.once(session):
            assert session.new
    registry.dispose()


# What may be passed as the session.


def test_a_scoped_session_and_a_function_are_asked_for_the_session(
    consumer: Consumer,
) -> None:
    scoped = scoped_session(sessionmaker(consumer.engine))
    for source in (scoped, lambda: scoped()):
        with consumer.events.once(source, str(uuid4()), consumer="a") as first:
            assert first
    scoped.commit()
    scoped.remove()

    assert consumer.count(seen) == 2


@pytest.fixture
def local(tmp_path: Path) -> Any:
    """A consumer on SQLite, for what does not depend on the database."""
    with consumer_on(f"sqlite:///{tmp_path / 'a.sqlite3'}") as consumer:
        yield consumer


@pytest.mark.parametrize(
    ("session", "error"),
    [
        (sessionmaker(), "the session that does the work, not what makes sessions"),
        (Session, "the session that does the work, not what makes sessions"),
        (AsyncSession(), "use 'async with events.once"),
        (None, "NoneType is not a session of SQLAlchemy: pass the session"),
    ],
    ids=["sessionmaker", "class", "async", "none"],
)
def test_what_is_no_session_is_refused(
    local: Consumer, session: Any, error: str
) -> None:
    block = local.events.once(session, "7", consumer="a")
    with pytest.raises(TypeError, match=error), block:
        pass


@pytest.mark.parametrize(
    ("id", "name", "error"),
    [
        (None, "a", "message_id is empty"),
        ("", "a", "message_id is empty"),
        ("7", "", "consumer is empty"),
        (7, "a", "message_id is of type int: pass a str"),
        ("7" * 256, "a", "message_id takes 256 bytes"),
        ("7", "a" * 256, "consumer takes 256 bytes"),
    ],
)
def test_names_that_can_t_be_told_apart_are_refused(
    local: Consumer, id: Any, name: str, error: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        local.events.once(local.session(), id, consumer=name)


def test_without_a_table_the_error_says_what_to_call() -> None:
    events = EventCollector()
    with pytest.raises(ConfigurationError, match=r"session\(db\.session, inbox="):
        events.once(None, "7", consumer="a")


def test_another_table_is_refused(local: Consumer) -> None:
    local.events.bind_session(local.session, inbox=seen)
    other = make_inbox_table(sqlalchemy.MetaData(), "other")
    with pytest.raises(
        ConfigurationError, match=r"the table 'eventcollector_seen' already: bind one"
    ):
        local.events.bind_session(local.session, inbox=other)


def test_a_table_that_the_database_lacks_is_named(consumer: Consumer) -> None:
    seen.drop(consumer.engine)
    for use in (consumer.handle, lambda _: consumer.events.purge_seen()):
        with (
            consumer.session() as session,
            pytest.raises(ConfigurationError, match=r"_seen'.*migration"),
        ):
            use(session)


def test_another_error_of_the_database_stays_what_it_is(consumer: Consumer) -> None:
    metadata.drop_all(consumer.engine)
    with consumer.engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE eventcollector_seen (a INT)"))
    with (
        consumer.session() as session,
        pytest.raises(sqlalchemy.exc.DBAPIError, match=re.compile("column", re.I)),
    ):
        consumer.handle(session)


@pytest.mark.parametrize("by", ["engine", "option"])
def test_a_session_without_transactions_is_refused(database_url: str, by: str) -> None:
    level = {"isolation_level": "AUTOCOMMIT"}
    engine = sqlalchemy.create_engine(database_url, **(level if by == "engine" else {}))
    if by == "option":
        engine = engine.execution_options(**level)
    metadata.create_all(engine)
    consumer = Consumer(engine)
    with (
        consumer.session() as session,
        pytest.raises(ConfigurationError, match=r"AUTOCOMMIT mode.*isolation_level"),
    ):
        consumer.handle(session)
    engine.dispose()


def test_a_driver_without_transactions_is_refused(database_url: str) -> None:
    option = "isolation_level" if database_url.startswith("sqlite") else "autocommit"
    value = None if option == "isolation_level" else True
    engine = sqlalchemy.create_engine(database_url, connect_args={option: value})
    metadata.create_all(engine)
    consumer = Consumer(engine)
    with (
        consumer.session() as session,
        pytest.raises(ConfigurationError, match="AUTOCOMMIT mode"),
    ):
        consumer.handle(session)
    engine.dispose()


def test_a_session_that_reads_from_replicas_notes_in_the_primary(
    local: Consumer,
) -> None:
    class Routing(Session):
        """Its only database is that of changes."""

        def get_bind(self, *_: object, clause: object = None, **__: object) -> Engine:
            assert isinstance(clause, Update)
            return local.engine

    session = Routing()
    events = EventCollector()
    events.bind_session(session, inbox=seen)
    with events.once(session, "7", consumer="billing") as first:
        assert first
    session.commit()
    session.close()
    assert local.count(seen) == 1
    assert events.purge_seen(older_than=timedelta()) == 1


def test_another_database_is_refused(local: Consumer) -> None:
    local.engine.dialect.name = "oracle"
    with (
        local.session() as session,
        pytest.raises(ConfigurationError, match="can't use oracle: it needs Postgre"),
    ):
        local.handle(session)


def test_the_table_may_have_another_name_and_schema() -> None:
    table = make_inbox_table(sqlalchemy.MetaData(), "handled", "shop")

    assert table.fullname == "shop.handled"
    assert {index.name for index in table.indexes} == {"ix_handled_seen_at"}
