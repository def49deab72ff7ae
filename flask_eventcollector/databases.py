"""What must be known of the application's database, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Dialect, Table, update
from sqlalchemy.exc import DBAPIError

#: How databases say that there is no such table: the SQLSTATE of PostgreSQL, the number
#: of MySQL, a part of SQLite's text.
_NO_TABLE = ("42P01", 1146, "no such table")


def writing_to(table: Table) -> dict[str, Any]:
    """What a session needs to know to use the database in which *table* is written.

    Without it, a session that reads from replicas may use one of these.
    """
    return {"clause": update(table)}


def is_autocommit(connection: Connection) -> bool:
    """Whether *connection* commits each statement at once."""
    options, dialect = connection.get_execution_options(), connection.dialect
    return has_autocommit(options, dialect) or driver_commits(connection)


def driver_commits(connection: Connection) -> bool:
    """Whether the driver commits each statement at once, unknown to SQLAlchemy.

    For example by ``connect_args={"autocommit": True}``. SQLite may have begun a
    transaction by a statement all the same: listeners do that as *connection* begins.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        manual = getattr(driver, "autocommit", None) is True
        manual |= getattr(driver, "isolation_level", "") is None
        return manual and connection.in_transaction() and not driver.in_transaction
    if connection.dialect.name == "postgresql":
        return getattr(driver, "autocommit", False) is True
    # MySQL's other drivers would have to ask the server each time.
    return hasattr(driver, "get_autocommit") and bool(driver.get_autocommit())


def has_autocommit(options: Mapping[str, Any], dialect: Dialect) -> bool:
    """Whether an engine or a connection with these *options* commits at once."""
    # The dialect has no other name for what create_engine() was given.
    at_connect = getattr(dialect, "_on_connect_isolation_level", None)
    level = options.get("isolation_level", at_connect)
    return level is not None and level.upper().replace("_", "") == "AUTOCOMMIT"


def begins_at_savepoint(connection: Connection) -> bool:
    """Whether a savepoint of *connection* would begin the database's transaction.

    Then its release commits. Python's sqlite3 begins no transaction before a SAVEPOINT,
    unless it is told to, or has executed a change before.
    """
    if connection.dialect.name != "sqlite":
        return False
    return not getattr(connection.connection.driver_connection, "in_transaction", True)


def says_no_table(error: DBAPIError) -> bool:
    """Whether the database says that there is no such table."""
    return says(error, _NO_TABLE)


def says(error: DBAPIError, signs: tuple[str | int, ...]) -> bool:
    """Whether *error* has one of *signs*: a SQLSTATE, a number, or a part of a text."""
    original = error.orig
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    number = original.args[0] if original is not None and original.args else None
    if state in signs or number in signs:
        return True
    return any(isinstance(s, str) and " " in s and s in str(original) for s in signs)
