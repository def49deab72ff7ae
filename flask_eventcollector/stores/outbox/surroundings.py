"""What there is about the outbox's database: its clock, a pooler, old transactions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, select, text

from ...databases import begins_at_savepoint, driver_commits
from .clock import now_ms
from .database import Database, new_connection

_TRANSACTIONS = text(
    "SELECT pid, state, extract(epoch FROM now() - xact_start) AS age"
    " FROM pg_stat_activity"
    " WHERE coalesce(backend_xmin, backend_xid) IS NOT NULL"
    " AND xact_start < now() - make_interval(secs => :age) AND pid <> pg_backend_pid()"
    " ORDER BY xact_start LIMIT 3"
)
_PREPARED = text(
    "SELECT gid, extract(epoch FROM now() - prepared) AS age FROM pg_prepared_xacts"
    " WHERE prepared < now() - make_interval(secs => :age) ORDER BY prepared LIMIT 3"
)
_SLOTS = text(
    "SELECT slot_name FROM pg_replication_slots"
    " WHERE NOT active AND coalesce(xmin, catalog_xmin) IS NOT NULL LIMIT 3"
)


def clock_offset(database: Database) -> float:
    """Seconds by which the database's clock is ahead of this machine's."""
    with database.reading() as connection:
        before = time.time()
        then = connection.scalar(select(now_ms())) or 0
        return then / 1000 - (before + time.time()) / 2


def holders(database: Database, age: float) -> Iterator[str]:
    """What keeps PostgreSQL from removing dead rows, for *age* seconds at least."""
    if not database.is_postgresql:
        return
    with database.reading() as connection:
        for row in connection.execute(_TRANSACTIONS, {"age": age}):
            yield f"the transaction of process {row.pid} ({row.state}, {row.age:.0f} s)"
        for row in connection.execute(_PREPARED, {"age": age}):
            yield f"the prepared transaction {row.gid} ({row.age:.0f} s)"
        for row in connection.execute(_SLOTS):
            yield f"the replication slot {row.slot_name}, which nobody reads"


def is_pooled(engine: Engine) -> bool:
    """Whether a pooler, such as PgBouncer, gives each transaction any connection.

    Then two connections that are used in turn are one to PostgreSQL.
    """
    if engine.dialect.name != "postgresql":
        return False
    one, other = new_connection(engine), new_connection(engine)
    try:
        return bool(_process(one) == _process(other))
    finally:
        one.close()
        other.close()


def prepares(engine: Engine) -> bool:
    """Whether connections of *engine* prepare statements, as psycopg does."""
    connection = new_connection(engine)
    try:
        return getattr(connection, "prepare_threshold", None) is not None
    finally:
        connection.close()


def commits_each_statement(engine: Engine) -> bool:
    """Whether the driver does, as by ``connect_args={"autocommit": True}``."""
    if engine.dialect.is_async:
        return False
    with engine.connect() as connection, connection.begin():
        return driver_commits(connection)


def commits_at_savepoint(engine: Engine) -> bool:
    """Whether the release of a savepoint would commit, as in SQLite's legacy mode."""
    if engine.dialect.is_async:
        return False
    with engine.connect() as connection, connection.begin():
        return begins_at_savepoint(connection)


def _process(connection: Any) -> object:
    cursor = connection.cursor()
    cursor.execute("SELECT pg_backend_pid()")
    found = cursor.fetchone()
    connection.rollback()
    return found
