"""The table of the messages that consumers have handled."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Insert, Table, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from ..databases import is_autocommit, says_no_table, writing_to
from ..errors import ConfigurationError
from ..messages.wording import type_name

#: How many rows one transaction of a purge deletes. Older versions of SQLite take at
#: most 999 parameters.
_BATCH = 500
_MICROSECOND = timedelta(microseconds=1)

#: How each database inserts a row, unless it has the row. A transaction that has
#: inserted the row and is not over yet is waited for. The row is checked before, since
#: MySQL's IGNORE would also shorten what is too long.
_INSERTS: dict[str, Callable[[Table], Insert | ReturningInsert[Any]]] = {
    # Before SQLAlchemy 2.0.28, its number of inserted rows is unknown.
    "postgresql": lambda table: (
        postgresql.insert(table).on_conflict_do_nothing().returning(table.c.seen_at)
    ),
    "sqlite": lambda table: sqlite.insert(table).on_conflict_do_nothing(),
    "mysql": lambda table: insert(table).prefix_with("IGNORE"),
    "mariadb": lambda table: insert(table).prefix_with("IGNORE"),
}


class Inbox:
    """One table, with the sessions of its database."""

    #: What :meth:`count` and :meth:`purge` may raise.
    FAILURES = (ConfigurationError, SQLAlchemyError)

    def __init__(self, source: object, table: Table) -> None:
        self._source = source
        self.table = table

    def add(self, session: Session, consumer: str, message_id: str) -> bool:
        """Insert a row in the session's transaction; whether it was missing.

        Waits for another transaction that has inserted the same row.
        """
        connection = self._connection(session)
        _check_transaction(connection)
        row = {"consumer": consumer, "message_id": message_id, "seen_at": _now()}
        statement = _insert(self.table, connection.dialect.name)
        with self._missing_table_explained():
            # On the connection, since a session may flush before it executes.
            result = connection.execute(statement, row)
        if result.returns_rows:
            return result.first() is not None
        # If a driver does not know, the work is done twice rather than never.
        return result.rowcount != 0

    def remove(self, session: Session, consumer: str, message_id: str) -> None:
        """Delete a row in the session's transaction."""
        columns = self.table.c
        statement = delete(self.table).where(
            columns.consumer == consumer, columns.message_id == message_id
        )
        self._connection(session).execute(statement)

    def _connection(self, session: Session) -> Connection:
        return session.connection(bind_arguments=writing_to(self.table))

    def count(self, older_than: timedelta) -> int:
        """How many rows :meth:`purge` would delete."""
        is_old = self.table.c.seen_at < _before(older_than)
        statement = select(func.count()).select_from(self.table).where(is_old)
        with self._own_session() as session, self._missing_table_explained():
            return session.scalar(statement) or 0

    def purge(
        self, older_than: timedelta, on_batch: Callable[[int], object] = lambda _: None
    ) -> int:
        """Delete old rows, the oldest first, in short transactions of its own."""
        columns, before = self.table.c, _before(older_than)
        oldest = select(columns.consumer, columns.message_id)
        oldest = oldest.where(columns.seen_at < before).order_by(columns.seen_at)
        total, is_full = 0, True
        with self._own_session() as session, self._missing_table_explained():
            while is_full:
                # In a transaction of its own: SQLite may not let a reader write.
                with session.begin():
                    keys = session.execute(oldest.limit(_BATCH)).all()
                with session.begin():
                    deleted: int = sum(self._delete(session, keys, before))
                total += deleted
                on_batch(deleted)
                is_full = len(keys) == _BATCH
        return total

    def _delete(
        self, session: Session, keys: Iterable[Sequence[str]], before: int
    ) -> Iterator[int]:
        """Delete rows by their keys; how many, for each consumer.

        MySQL would lock a range of times with the row behind it, which a consumer's
        open transaction may have inserted.
        """
        columns = self.table.c
        ids = defaultdict(list)
        for consumer, id in keys:
            ids[consumer].append(id)
        for consumer in ids:
            statement = delete(self.table).where(
                columns.consumer == consumer,
                columns.message_id.in_(ids[consumer]),
                # Still old. The sum keeps the database from using the index of times.
                columns.seen_at + 0 < before,
            )
            result: Any = session.execute(statement)
            yield result.rowcount

    def _own_session(self) -> Session:
        """A session with transactions of its own, on the database of the table."""
        source = self._source
        session = checked_session(
            source() if callable(source) else source,
            "bind a session without asyncio for the inbox",
        )
        return Session(session.get_bind(**writing_to(self.table)))

    @contextmanager
    def _missing_table_explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if not says_no_table(error):
                raise
            raise ConfigurationError(
                f"the database has no table {self.table.fullname!r}, which"
                " make_inbox_table() describes: create it by a migration, or with"
                " metadata.create_all()"
            ) from error


def checked_session(session: object, instead: str) -> Session:
    """*session*, if it is a SQLAlchemy session.

    :param instead: what to do with an ``AsyncSession``.
    :raises TypeError: it isn't.
    """
    if isinstance(session, Session):
        return session
    if hasattr(session, "run_sync"):
        raise TypeError(f"an AsyncSession can't be used here: {instead}")
    raise TypeError(
        f"{type_name(session)} is not a session of SQLAlchemy: pass the session that"
        " does the work, such as db.session"
    )


def _insert(table: Table, dialect: str) -> Insert | ReturningInsert[Any]:
    if dialect not in _INSERTS:
        raise ConfigurationError(
            f"once() can't use {dialect}: it needs PostgreSQL, MariaDB, MySQL or SQLite"
        )
    return _INSERTS[dialect](table)


def _check_transaction(connection: Connection) -> None:
    """Check that the row is not committed at once, before its message is handled."""
    if is_autocommit(connection):
        raise ConfigurationError(
            "once() needs a transaction, but this session is in AUTOCOMMIT mode,"
            " so the message would count as handled before it is: use a session with"
            " another isolation_level"
        )


def _now() -> int:
    return time.time_ns() // 1000


def _before(age: timedelta) -> int:
    if not isinstance(age, timedelta):
        raise TypeError(
            f"older_than is of type {type_name(age)}: pass a timedelta, such as"
            " timedelta(days=14)"
        )
    if age < timedelta():
        raise ValueError(f"older_than must be a timedelta of at least 0, not {age}")
    return _now() - age // _MICROSECOND
