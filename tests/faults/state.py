"""The state that events tell of, in a database.

The app under test writes the key of each event into a table, in the transaction in
which it enqueues the event. The rig reads the table: an event whose key is not in it
must never arrive, and the others must.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    case,
    create_engine,
    event,
    func,
    insert,
    or_,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from flask_eventcollector import make_outbox_table
from flask_eventcollector.stores.outbox.clock import now_ms
from flask_eventcollector.stores.outbox.table import leader_table
from tests.databases import (
    DatabaseServer,
    MariaDB,
    PostgreSQL,
    missing_mariadb,
    missing_postgresql,
)

#: Seconds between two looks of a `Watch`.
WATCH_INTERVAL = 0.1

METADATA = MetaData()
#: The keys of the events whose transactions were committed.
PLACED = Table("placed", METADATA, Column("key", String(80), primary_key=True))
#: The library's outbox.
OUTBOX = make_outbox_table(METADATA)
LEADER = leader_table(OUTBOX)
#: The one of a tutorial.
NAIVE_OUTBOX = Table(
    "naive_outbox",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("queue", String(255), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("sent", Boolean, nullable=False, default=False),
)

SERVERS: dict[str, type[DatabaseServer]] = {
    "postgresql": PostgreSQL,
    "mariadb": MariaDB,
}
_MISSING: dict[str, Callable[[], str | None]] = {
    "postgresql": missing_postgresql,
    "mariadb": missing_mariadb,
}


def missing_database(kind: str | None) -> str | None:
    """What a database of this kind needs and is missing."""
    return _MISSING[kind]() if kind in _MISSING else None


def open_engine(url: str, **options: Any) -> Engine:
    """An engine; on SQLite with savepoints, and with readers that block nobody."""
    engine = create_engine(url, **options)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _leave_transactions_to_sqlalchemy)
        event.listen(engine, "begin", _begin)
    return engine


def _leave_transactions_to_sqlalchemy(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA busy_timeout = 10000")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


class _TakenBack(Exception):
    """Ends a transaction that is to be rolled back."""


class State:
    """What the app under test has in its database."""

    def __init__(self, url: str) -> None:
        # Errors end up in the log, where keys of events have no place.
        self.engine = open_engine(
            url, pool_size=16, pool_pre_ping=True, hide_parameters=True
        )
        self.sessions = scoped_session(sessionmaker(self.engine))

    def write(self, key: str) -> None:
        """Write the state that the event with this key tells of."""
        self.sessions.execute(insert(PLACED).values(key=key))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block writes, or roll it back if it raises."""
        try:
            with self.sessions.begin():
                yield
        finally:
            self.sessions.remove()

    @contextmanager
    def taken_back(self) -> Iterator[None]:
        """Roll back what the block writes."""
        with suppress(_TakenBack), self.transaction():
            yield
            raise _TakenBack

    @contextmanager
    def savepoint_taken_back(self) -> Iterator[None]:
        """The same, by a savepoint."""
        savepoint = self.sessions.begin_nested()
        yield
        savepoint.rollback()


class Database:
    """The database of one trial, as the rig sees it.

    :param server: what runs it, for rows that kill it; ``None``: it is a file.
    """

    def __init__(self, url: str, server: DatabaseServer | None) -> None:
        self.url = url
        self._server = server
        # No connection outlives a kill of the server.
        self._engine = open_engine(url, poolclass=NullPool)
        METADATA.create_all(self._engine)

    @property
    def server(self) -> DatabaseServer:
        """The server, which may be killed and started again."""
        assert self._server is not None, "SQLite has no server"
        return self._server

    def committed(self) -> set[str]:
        """The keys of all events whose transactions were committed."""
        with self._engine.connect() as connection:
            return set(connection.scalars(select(PLACED.c.key)))

    def unsent(self) -> int:
        """How many rows of either outbox wait for being sent."""
        count = func.count()
        ours = select(count).select_from(OUTBOX).where(OUTBOX.c.state == 0)
        naive = select(count).select_from(NAIVE_OUTBOX).where(~NAIVE_OUTBOX.c.sent)
        with self._engine.connect() as connection:
            return sum(connection.scalar(rows) or 0 for rows in (ours, naive))

    def leader(self) -> int | None:
        """The process id of the relay that is active; ``None``: none is."""
        c = LEADER.c
        names = select(c.name).where(c.token.is_not(None), c.until > now_ms())
        with self._engine.connect() as connection:
            name = connection.scalar(names)
        return None if name is None else int(name.split()[-1])

    def stuck(self, lease: float) -> tuple[int, int]:
        """The time by its clock, and since when the oldest row is stuck, in ms.

        It is stuck if its lease, of that many seconds, has run out, or if nobody has
        ever held it. If there is none, the two are the same.
        """
        c = OUTBOX.c
        is_free = (c.due == 0) & ~c.maybe_sent
        since = case(
            (c.due > 0, c.due - round(lease * 1000)), else_=c.enqueued_at / 1000
        )
        is_stuck = c.state == 0, or_(is_free, c.token.is_not(None) & (c.due < now_ms()))
        oldest = select(func.min(since)).where(*is_stuck).scalar_subquery()
        with self._engine.connect() as connection:
            now, since = connection.execute(select(now_ms(), oldest)).one()
        return now, now if since is None else int(since)


class Watch:
    """Notes for how long rows are stuck, in a thread, during a `with` block.

    :param lease: of the library, in seconds; 0: the rows are not in its outbox.
    """

    def __init__(self, database: Database, lease: float) -> None:
        self.database = database
        self.lease = lease
        #: In seconds, not counting the time for which the database could not be asked.
        self.longest = 0.0
        self._since = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while self.lease and not self._ending.wait(WATCH_INTERVAL):
            with suppress(SQLAlchemyError):
                self._look()
                continue
            self._since = 0

    def _look(self) -> None:
        now, since = self.database.stuck(self.lease)
        # When the database was back.
        self._since = self._since or now
        seconds = (now - max(since, self._since)) / 1000
        self.longest = max(self.longest, seconds)


class Databases:
    """Creates the databases of trials, on servers that run once they are needed."""

    def __init__(self) -> None:
        self._servers: dict[str, DatabaseServer] = {}

    def __enter__(self) -> Databases:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.close()

    def new(self, kind: str, folder: Path) -> Database:
        """A new database, in *folder* if it is a file."""
        if kind == "sqlite":
            return Database(f"sqlite:///{folder / 'state.sqlite3'}", None)
        if kind not in self._servers:
            self._servers[kind] = SERVERS[kind]()
        server = self._servers[kind]
        server.start()
        return Database(server.new_database(), server)
