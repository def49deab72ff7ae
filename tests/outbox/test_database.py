"""Our own connections, and databases that can't be used."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import MetaData, create_engine, event
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.pool import NullPool, StaticPool

from flask_eventcollector import ConfigurationError
from flask_eventcollector.stores.outbox import database
from flask_eventcollector.stores.outbox.database import Database, check_engine
from flask_eventcollector.stores.outbox.outbox import Outbox
from flask_eventcollector.stores.outbox.table import make_outbox_table
from tests.conftest import require
from tests.helpers import in_child
from tests.outbox.support import APP, MUCH, Place, sent, statements
from tests.parts import make_event

on = pytest.mark.parametrize


# Whose connections they are.


@on("options", [{"pool_size": 1, "max_overflow": 0}, {"poolclass": NullPool}])
def test_the_pool_of_the_application_is_left_alone(
    outbox_url: str, options: dict[str, Any]
) -> None:
    place = Place(outbox_url, **options)
    outbox = place.outbox()
    place.write(outbox, "a")
    with place.engine.connect():
        # Its only connection is in use.
        assert sent(outbox.claim(1, MUCH)) == ["a"]
    place.close()


def test_they_are_made_as_those_of_the_application(new_place: Place) -> None:
    made: list[object] = []
    event.listen(
        new_place.engine, "connect", lambda connection, _: made.append(connection)
    )
    outbox = new_place.outbox()
    for _ in range(5):
        outbox.claim(1, MUCH)
    # One is enough for one thread.
    assert len(made) == 1


@on("outbox_url", ["postgresql", "mariadb"], indirect=True)
def test_they_have_transactions_of_their_own_kind(outbox_url: str) -> None:
    place = Place(outbox_url, isolation_level="SERIALIZABLE")
    with place.database().changing() as connection:
        assert connection.get_isolation_level() == "READ COMMITTED"
    place.close()


@on("outbox_url", ["postgresql"], indirect=True)
def test_nothing_is_prepared_in_a_session_of_postgresql(place: Place) -> None:
    # A pooler like PgBouncer may give the next transaction another session.
    outbox = place.outbox()
    for number in range(8):
        place.write(outbox, [number])
        outbox.erase([row.seq for row in outbox.claim(1, MUCH)])
    with outbox._database.reading() as connection:
        prepared = connection.exec_driver_sql("SELECT * FROM pg_prepared_statements")
        assert prepared.all() == []


@on("outbox_url", ["postgresql"], indirect=True)
def test_postgresql_gets_many_numbers_as_one_parameter(place: Place) -> None:
    outbox = place.outbox()
    written = place.write(outbox, range(500), held=True)
    with statements(sqlalchemy.Engine) as executed:  # type: ignore[arg-type]
        assert outbox.renew(written) == len(outbox.read(written)) == 500
        assert outbox.erase(written) == 500
    assert max(len(parameters) for _, parameters in executed) < 10


@on("outbox_url", ["sqlite"], indirect=True)
def test_changes_in_sqlite_lock_the_file_at_once(place: Place) -> None:
    outbox = place.outbox()
    with statements(sqlalchemy.Engine) as executed:  # type: ignore[arg-type]
        outbox.claim(1, MUCH)
        outbox.read([1])
    begins = [statement for statement, _ in executed if "BEGIN" in statement]
    assert begins == ["BEGIN IMMEDIATE", "BEGIN IMMEDIATE", "BEGIN"]


@on("outbox_url", ["sqlite"], indirect=True)
@on("option", [{"isolation_level": None}, {"autocommit": False}])
def test_how_the_application_begins_in_sqlite_does_not_matter(
    outbox_url: str, option: dict[str, Any]
) -> None:
    if "autocommit" in option and sys.version_info < (3, 12):
        pytest.skip("needs Python 3.12")
    place = Place(outbox_url, connect_args=option)
    if "isolation_level" in option:
        event.listen(place.engine, "begin", lambda c: c.exec_driver_sql("BEGIN"))
    outbox = place.outbox()
    written = place.write(outbox, "ab")
    claimed = outbox.claim(10, MUCH)
    assert sent(claimed) == ["a", "b"]
    assert outbox.erase(written) == 2
    place.close()


@on("outbox_url", ["sqlite"], indirect=True)
def test_what_the_application_writes_in_sqlite_is_waited_for(place: Place) -> None:
    outbox = place.outbox()
    with place.engine.connect() as connection:
        outbox.write(connection, [make_event("a")], held=False)
        url = place.engine.url
        impatient = create_engine(url, connect_args={"timeout": 0})
        other = Database(impatient, place.table)
        with pytest.raises(OperationalError, match="locked"):
            Outbox(other, APP).claim(1, MUCH)
        other.close()
        connection.commit()
    assert sent(outbox.claim(1, MUCH)) == ["a"]


def test_a_forked_child_uses_connections_of_its_own(new_place: Place) -> None:
    made: list[object] = []
    event.listen(
        new_place.engine, "connect", lambda connection, _: made.append(connection)
    )
    outbox = new_place.outbox()
    with new_place.engine.begin() as connection:
        events = [make_event(payload) for payload in "abc"]
        outbox.write(connection, events, held=False)
    assert sent(outbox.claim(1, MUCH)) == ["a"]

    def child() -> list[Any]:
        outbox._database.abandon()
        return [*sent(outbox.claim(1, MUCH)), len(made)]

    assert in_child(child) == ["b", 2]
    assert sent(outbox.claim(1, MUCH)) == ["c"]
    # The child has closed none of ours.
    assert len(made) == 1


@on("outbox_url", ["postgresql", "mariadb"], indirect=True)
def test_a_lost_connection_is_replaced(place: Place) -> None:
    outbox = place.outbox()
    place.write(outbox, "ab")
    outbox.claim(1, MUCH)
    with outbox._database.changing() as connection:
        raw = connection.connection.dbapi_connection
    assert raw is not None
    raw.close()
    assert sent(outbox.claim(1, MUCH)) == ["b"]


@on("outbox_url", ["postgresql"], indirect=True)
def test_rows_are_in_the_schema_of_the_tenant(place: Place) -> None:
    tenant = f"tenant_{place.table.name}"
    engine = place.engine.execution_options(schema_translate_map={None: tenant})
    with place.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {tenant}")
    place.metadata.create_all(engine)
    outbox = Outbox(Database(engine, place.table), APP)

    with engine.begin() as connection:
        outbox.write(connection, map(make_event, ["their", "own"]), held=False)

    assert place.outbox().claim(1, MUCH) == []
    assert sent(outbox.claim(2, MUCH)) == ["their", "own"]
    outbox._database.close()


@on("outbox_url", ["postgresql"], indirect=True)
def test_psycopg2_works_as_well(outbox_url: str) -> None:
    found = importlib.util.find_spec("psycopg2")
    require(None if found else "the Python package psycopg2")
    place = Place(outbox_url.replace("+psycopg:", "+psycopg2:"))
    outbox = place.outbox()
    written = place.write(outbox, range(50), held=True)
    assert outbox.renew(written) == outbox.give_back(written) == 50
    claimed = outbox.claim(100, MUCH)
    assert sent(claimed) == list(range(50))
    assert outbox.erase(written) == 50
    place.close()


@on("outbox_url", ["mariadb"], indirect=True)
def test_mariadb_may_be_called_so(outbox_url: str) -> None:
    place = Place(outbox_url.replace("mysql+", "mariadb+"))
    outbox = place.outbox()
    place.write(outbox, "ab")
    assert sent(outbox.claim(10, MUCH)) == ["a", "b"]
    place.close()


# What can't be used.


def message(engine: sqlalchemy.Engine) -> str:
    with pytest.raises(ConfigurationError) as refused:
        check_engine(engine)
    return str(refused.value)


@on("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    assert "use a file" in message(create_engine(url, poolclass=StaticPool))


def test_a_database_that_is_unknown_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/x")
    monkeypatch.setattr(engine.dialect, "name", "oracle")
    assert "PostgreSQL, MariaDB, MySQL and SQLite" in message(engine)


def test_an_asynchronous_engine_that_nothing_stands_in_for_is_refused() -> None:
    found = importlib.util.find_spec("aiosqlite")
    require(None if found else "the Python package aiosqlite")
    engine = create_engine("sqlite+aiosqlite:///x.sqlite3")
    check_engine(engine)
    engine.dialect.driver = "asyncpg"
    assert "pass bind_session() an outbox_engine" in message(engine)


AUTOCOMMIT = "remove isolation_level from the engine's options"


def test_an_engine_that_commits_each_statement_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x"
    assert AUTOCOMMIT in message(create_engine(url, isolation_level="AUTOCOMMIT"))
    options = create_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    assert AUTOCOMMIT in message(options)
    # Its default is nobody's business, as long as it has another one.
    check_engine(create_engine(url, isolation_level="SERIALIZABLE"))


def test_a_connection_that_commits_each_statement_is_refused(place: Place) -> None:
    outbox = place.outbox()
    with place.engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ConfigurationError, match=AUTOCOMMIT):
            outbox.write(connection, [make_event()], held=False)
    assert place.values("seq") == []


@on("option", [{"autocommit": True}, {"isolation_level": None}])
def test_a_driver_that_commits_each_statement_is_refused(
    outbox_url: str, option: dict[str, Any]
) -> None:
    is_sqlite = outbox_url.startswith("sqlite")
    if is_sqlite != ("isolation_level" in option):
        pytest.skip("another driver's option")
    place = Place(outbox_url, connect_args=option)
    with (
        place.engine.begin() as connection,
        pytest.raises(ConfigurationError, match=r"driver commits.*from connect_args"),
    ):
        place.outbox().write(connection, [make_event()], held=False)
    assert place.values("seq") == []

    event.listen(place.engine, "begin", lambda c: c.exec_driver_sql("BEGIN"))
    if is_sqlite:
        # Now there is a transaction all the same.
        place.write(place.outbox(), ["a"])
        assert len(place.values("seq")) == 1
    place.close()


def test_another_schema_than_that_of_the_process_is_refused(place: Place) -> None:
    outbox = place.outbox()
    with place.engine.begin() as connection:
        connection = connection.execution_options(schema_translate_map={None: "tenant"})
        with pytest.raises(ConfigurationError, match=r"'tenant'.*in the schema None"):
            outbox.write(connection, [make_event()], held=False)


def test_an_old_version_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOWEST", dict.fromkeys(database.LOWEST, (99, 1)))
    with pytest.raises(ConfigurationError, match=r"99\.1 or later.*upgrade"):
        place.outbox().claim(1, MUCH)
    with pytest.raises(ConfigurationError, match=r"99\.1 or later.*upgrade"):
        place.outbox().read([1])


def test_a_missing_table_is_explained(place: Place) -> None:
    missing = make_outbox_table(MetaData(), "missing")
    outbox = Outbox(Database(place.engine, missing), APP)
    text = r"table missing does not exist.*run your migrations.*create_all\(\)"
    with pytest.raises(ConfigurationError, match=text):
        outbox.claim(1, MUCH)
    with pytest.raises(ConfigurationError, match=text), place.engine.begin() as mine:
        outbox.write(mine, [make_event()], held=False)
    outbox._database.close()


def test_a_missing_column_is_explained(new_place: Place) -> None:
    outbox = new_place.outbox()
    with new_place.engine.begin() as connection:
        drop = f"ALTER TABLE {new_place.table.name} DROP COLUMN headers"
        connection.exec_driver_sql(drop)
    text = "lacks a column in the database: run your migrations.*outbox check"
    with (
        pytest.raises(ConfigurationError, match=text),
        new_place.engine.begin() as mine,
    ):
        outbox.write(mine, [make_event()], held=False)


@on("outbox_url", ["mariadb"], indirect=True)
def test_a_missing_index_is_explained(new_place: Place) -> None:
    with new_place.engine.begin() as connection:
        name = new_place.table.name
        connection.exec_driver_sql(f"DROP INDEX {name}_due ON {name}")
    text = "lacks its index in the database: run your migrations"
    with pytest.raises(ConfigurationError, match=text):
        new_place.outbox().claim(1, MUCH)


@on("outbox_url", ["postgresql", "mariadb"], indirect=True)
def test_other_errors_are_the_databases(place: Place) -> None:
    outbox = place.outbox()
    with pytest.raises(DataError), place.engine.begin() as connection:
        outbox.write(connection, [make_event(id="x" * 256)], held=False)


def test_the_outbox_needs_sqlalchemy() -> None:
    code = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from flask_eventcollector import make_outbox_table\n"
        "try: make_outbox_table(None)\n"
        "except ImportError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert "pip install 'SQLAlchemy>=2.0.16'" in said.stdout
