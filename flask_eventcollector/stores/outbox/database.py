"""Our own few connections to the application's database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Dialect,
    Engine,
    QueuePool,
    Table,
    any_,
    create_engine,
    event,
    literal,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError

from ...databases import driver_commits, has_autocommit, says, says_no_table
from ...errors import ConfigurationError

#: The first versions that can be used: of PostgreSQL with AS MATERIALIZED, of MariaDB
#: and MySQL with SKIP LOCKED, of SQLite with RETURNING.
LOWEST: Mapping[str, tuple[int, ...]] = {
    "PostgreSQL": (12,),
    "MariaDB": (10, 6),
    "MySQL": (8, 0, 1),
    "SQLite": (3, 35),
}
_NAMES = {"postgresql": "PostgreSQL", "mysql": "MySQL", "sqlite": "SQLite"}

#: The most rows that one transaction changes. In SQLite, all others wait for it.
_CHUNK, _CHUNK_IN_SQLITE = 2000, 100

#: How databases say that there is no such column; see :func:`.says`.
_NO_COLUMN = ("42703", 1054, "no such column", "has no column named")
#: Only MySQL is told by name which index to use.
_NO_INDEX = (1176,)

_READS = "eventcollector_reads"


class Database:
    """Our own connections to the database of *engine*: at most two.

    They are made as those of *engine*, but never taken from its pool, which belongs to
    the requests. Nothing depends on the state of a session, so that a pooler like
    PgBouncer may give each transaction another one.

    Thread-safe. Every use may block for as long as the database does; limit that by the
    driver's options, such as ``connect_timeout``.

    :raises ConfigurationError: the outbox can't be used with *engine*.
    """

    def __init__(self, engine: Engine, table: Table) -> None:
        check_engine(engine)
        self.table = table
        self._engine = _own_engine(_synchronous(engine))
        self._reader = self._engine.execution_options(**{_READS: True})
        self._schemas = engine.get_execution_options().get("schema_translate_map") or {}
        self.is_postgresql = engine.dialect.name == "postgresql"
        self._single = self._engine
        if self.is_postgresql:
            self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        is_sqlite = engine.dialect.name == "sqlite"
        #: The most rows to change in one transaction.
        self.chunk = _CHUNK_IN_SQLITE if is_sqlite else _CHUNK

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """One transaction, which is committed at the end of the block.

        :raises ConfigurationError: the table is missing, or the database too old.
        :raises sqlalchemy.exc.SQLAlchemyError: the database failed.
        """
        with explained(self.table), self._engine.begin() as connection:
            _check_version(connection.dialect)
            yield connection

    @contextmanager
    def changing_at_once(self) -> Iterator[Connection]:
        """As :meth:`changing`, for a single statement.

        PostgreSQL commits it by itself. So there is no moment in which a process may be
        frozen, or cut off, and leave locks that others wait for; and it takes a third
        of the round trips.
        """
        with explained(self.table), self._single.begin() as connection:
            _check_version(connection.dialect)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """As :meth:`changing`, for a transaction that changes nothing."""
        with explained(self.table), self._reader.begin() as connection:
            _check_version(connection.dialect)
            yield connection

    def check_schema(self, connection: Connection) -> None:
        """Check that *connection* means the same table as these do.

        :raises ConfigurationError: it translates the table's schema otherwise.
        """
        theirs = connection.schema_for_object(self.table)
        ours = self._schemas.get(self.table.schema, self.table.schema)
        if theirs != ours:
            raise ConfigurationError(
                f"The outbox's table {self.table.fullname} is in the schema {theirs!r}"
                f" for this transaction, but its rows are read in the schema {ours!r}:"
                " give make_outbox_table() a schema without a schema_translate_map"
            )

    def among(self, seqs: Sequence[int]) -> ColumnElement[bool]:
        """The condition for the rows with these numbers.

        PostgreSQL takes them as one array: to pass each of 2 000 numbers as a parameter
        takes longer than to erase as many rows.
        """
        seq = self.table.c.seq
        if self.is_postgresql:
            return seq == any_(literal(seqs, ARRAY(BigInteger)))
        return seq.in_(seqs)

    def chunks(self, seqs: Iterable[int]) -> Iterator[list[int]]:
        """The numbers of rows in order, in lists that fit into one transaction each."""
        ordered = sorted(seqs)
        for start in range(0, len(ordered), self.chunk):
            yield ordered[start : start + self.chunk]

    def close(self) -> None:
        """Close the connections. Another use would make new ones."""
        self._engine.dispose()

    def abandon(self) -> None:
        """In a forked child: forget the connections, which are its parent's."""
        self._engine.dispose(close=False)


def check_engine(engine: Engine) -> None:
    """Check, without connecting, that the outbox can be used with *engine*.

    :raises ConfigurationError: it can't; the message says what to do instead.
    """
    dialect, url = engine.dialect, engine.url
    if dialect.name not in (*_NAMES, "mariadb"):
        raise ConfigurationError(
            "The outbox works with PostgreSQL, MariaDB, MySQL and SQLite, but the"
            f" engine is for {dialect.name!r}: use one of these, or no outbox"
        )
    if dialect.is_async and dialect.driver not in _SYNCHRONOUS:
        raise ConfigurationError(
            f"The outbox sends in threads, but the driver of {url.drivername!r} needs"
            " asyncio: pass bind_session() an outbox_engine, made by create_engine()"
            " for the same database"
        )
    if dialect.name == "sqlite" and _is_in_memory(url.database, url.query):
        raise ConfigurationError(
            "The outbox needs connections of its own, but no other connection sees an"
            " SQLite database in memory: use a file, in tests one in tmp_path"
        )
    if has_autocommit(engine.get_execution_options(), dialect):
        raise ConfigurationError(_AUTOCOMMIT)


_AUTOCOMMIT = (
    "The outbox needs transactions, but the engine's isolation level is AUTOCOMMIT, so"
    " events would be sent whether or not the rest succeeds: remove isolation_level"
    " from the engine's options, and give it to single connections by"
    " execution_options()"
)


_DRIVER_COMMITS = (
    "The outbox needs transactions, but the database's driver commits each statement"
    " at once, so events would be sent whether or not the rest succeeds: remove"
    " autocommit, or with SQLite isolation_level=None, from connect_args or the URL"
)


def check_transaction(connection: Connection) -> None:
    """Check that what is executed on *connection* belongs to a transaction.

    :raises ConfigurationError: it would be committed at once.
    """
    if has_autocommit(connection.get_execution_options(), connection.dialect):
        raise ConfigurationError(_AUTOCOMMIT)
    if driver_commits(connection):
        raise ConfigurationError(_DRIVER_COMMITS)


def _is_in_memory(database: str | None, query: Mapping[str, Any]) -> bool:
    if not database or ":memory:" in database:
        return True
    return "mode=memory" in database or query.get("mode") == "memory"


def _check_version(dialect: Dialect) -> None:
    is_mariadb = getattr(dialect, "is_mariadb", False)
    name = "MariaDB" if is_mariadb else _NAMES[dialect.name]
    version = dialect.server_version_info or ()
    if version < LOWEST[name]:
        found, lowest = (".".join(map(str, v)) for v in (version, LOWEST[name]))
        raise ConfigurationError(
            f"The outbox needs {name} {lowest} or later, but the database's version is"
            f" {found}: upgrade it, or use no outbox"
        )


@contextmanager
def explained(table: Table) -> Iterator[None]:
    """Say what to do if *table* is missing, or is not what is expected.

    :raises ConfigurationError: it is.
    """
    try:
        yield
    except DBAPIError as error:
        # What create_all() has created once, it does not change.
        cure = "'flask events outbox check' says what is missing"
        if says_no_table(error):
            problem = "does not exist in the database"
            cure = "without migrations, call metadata.create_all()"
        elif says(error, _NO_COLUMN):
            problem = "lacks a column in the database"
        elif says(error, _NO_INDEX):
            problem = "lacks its index in the database"
        else:
            raise
        raise ConfigurationError(
            f"The outbox's table {table.fullname} {problem}: run your migrations, or"
            f" generate one if there is none for it; {cure}"
        ) from error


def new_connection(engine: Engine) -> Any:
    """A connection of the driver, as *engine* makes them, that belongs to no pool."""
    return _creator(_synchronous(engine))()


# The engine.

#: Drivers for asyncio, and which ones take the same URL without it.
_SYNCHRONOUS: Mapping[str, str] = {
    "aiosqlite": "pysqlite",
    "aiomysql": "pymysql",
    "psycopg": "psycopg",
}


def _synchronous(engine: Engine) -> Engine:
    """*engine*, or if it is one of asyncio, another one for the same URL."""
    dialect = engine.dialect
    if not dialect.is_async:
        return engine
    driver = f"{dialect.name}+{_SYNCHRONOUS[dialect.driver]}"
    made = create_engine(engine.url.set(drivername=driver))
    return made.execution_options(**engine.get_execution_options())


def _own_engine(engine: Engine) -> Engine:
    """An engine with the connections that *engine* makes, and its own pool of two."""
    is_sqlite = engine.dialect.name == "sqlite"
    options: dict[str, Any] = {} if is_sqlite else {"isolation_level": "READ COMMITTED"}
    schemas = engine.get_execution_options().get("schema_translate_map")
    own = create_engine(
        engine.url,
        creator=_creator(engine),
        module=engine.dialect.dbapi,
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=1,
        pool_pre_ping=True,
        # Errors end up in logs, where bodies have no place.
        hide_parameters=True,
        execution_options={"schema_translate_map": schemas} if schemas else {},
        **options,
    )
    event.listen(own, "connect", _prepare_nothing)
    if is_sqlite:
        event.listen(own, "connect", _leave_transactions_to_us)
        event.listen(own, "begin", _begin)
    return own


def _creator(engine: Engine) -> Any:
    """Makes connections as *engine* does, with all that its options do to them."""
    source = engine.pool.recreate()

    def connect() -> DBAPIConnection | None:
        borrowed = source.connect()
        borrowed.detach()
        return borrowed.dbapi_connection

    return connect


def _prepare_nothing(connection: Any, _record: object) -> None:
    """Keep psycopg from preparing statements, which belong to a session."""
    if hasattr(connection, "prepare_threshold"):
        connection.prepare_threshold = None


def _leave_transactions_to_us(connection: Any, _record: object) -> None:
    """Keep Python's sqlite3 from beginning transactions: it would not lock in time."""
    if hasattr(connection, "autocommit"):
        # Since Python 3.12. The first one ends the transaction that may be open.
        connection.autocommit = True
        connection.autocommit = -1  # sqlite3.LEGACY_TRANSACTION_CONTROL
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    # A transaction that reads first could not write once another one has written.
    reads = connection.get_execution_options().get(_READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
