"""The outbox's table, as a part of the application's own metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    event,
    literal_column,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.mysql import LONGBLOB, MEDIUMTEXT
from sqlalchemy.exc import InvalidRequestError

#: The most characters of an app's name, of a token, and of a reason.
MAX_APP, MAX_TOKEN, MAX_REASON = 64, 36, 1000
#: Of exchanges, queues and message ids: AMQP's short strings have 255 bytes.
_MAX_NAME = 255

#: The values of ``state``, as SQL: a planner matches a partial index only with what
#: it can read in the statement.
WAITING, DEAD = literal_column("0", Integer), literal_column("1", Integer)

#: PostgreSQL's defaults start a vacuum when a fifth of the rows is dead. This table's
#: rows live for milliseconds, so nearly all that it has ever held is dead.
AUTOVACUUM: Mapping[str, str] = {
    "autovacuum_vacuum_scale_factor": "0",
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_vacuum_insert_scale_factor": "0",
    "autovacuum_vacuum_insert_threshold": "10000",
    "autovacuum_analyze_scale_factor": "0",
    "autovacuum_analyze_threshold": "10000",
    "autovacuum_vacuum_cost_delay": "0",
}


def make_outbox_table(
    metadata: MetaData, name: str = "eventcollector_outbox", schema: str | None = None
) -> Table:
    """See :func:`flask_eventcollector.make_outbox_table`."""
    key = f"{schema or metadata.schema}.{name}" if schema or metadata.schema else name
    if key in metadata.tables:
        raise InvalidRequestError(
            f"the metadata has a table {key} already: call make_outbox_table() once"
            " for each metadata, where your models are, not each time an app is made"
        )
    table = Table(name, metadata, *_columns(), schema=schema, **_OPTIONS)
    # Dead rows are in no partial index. Elsewhere, the state keeps them apart.
    waiting = table.c.state == WAITING
    Index(
        f"{name}{_DUE}",
        *(table.c[column] for column in INDEXED),
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
    event.listen(table, "after_create", _set_autovacuum)
    Table(f"{name}_leader", metadata, *_leader_columns(), schema=schema, **_COMMON)
    return table


#: The columns of the only index besides the primary key. The claim names the first
#: three, and takes the rows in the order of the last.
INDEXED = ("app", "state", "due", "seq")

_DUE = "_due"

_COMMON: Mapping[str, Any] = {
    "mysql_engine": "InnoDB",
    "mariadb_engine": "InnoDB",
    # The names of apps and queues are case-sensitive, and may be any Unicode.
    "mysql_charset": "utf8mb4",
    "mariadb_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_collate": "utf8mb4_bin",
}
#: Numbers of erased rows must not be used again: a late erasing would hit another row.
_OPTIONS: Mapping[str, Any] = {**_COMMON, "sqlite_autoincrement": True}


def _columns() -> list[Column[Any]]:
    """The columns; all times are integers, which mean the same everywhere."""
    return [
        # The order of the events.
        Column(
            "seq",
            BigInteger().with_variant(Integer, "sqlite"),
            primary_key=True,
        ),
        Column("app", String(MAX_APP), nullable=False),
        # 0: waiting; 1: dead.
        Column("state", SmallInteger, nullable=False, server_default=text("0")),
        # In ms by the database's clock: when the row is free again, which is the end of
        # the lease or of its time to wait. 0: it is free.
        Column("due", BigInteger, nullable=False, server_default=text("0")),
        # Who holds the row until then.
        Column("token", String(MAX_TOKEN)),
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        Column("reason", String(MAX_REASON)),
        # Whether it may have been sent, by a process that did not say how it ended.
        Column("maybe_sent", Boolean, nullable=False),
        Column("exchange", String(_MAX_NAME), nullable=False),
        Column("target_queue", String(_MAX_NAME), nullable=False),
        Column("event_id", String(_MAX_NAME), nullable=False),
        # In µs, UTC.
        Column("enqueued_at", BigInteger, nullable=False),
        Column("size", Integer, nullable=False),
        # MySQL's TEXT and BLOB hold 64 KiB.
        Column(
            "headers",
            Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb"),
            nullable=False,
        ),
        Column(
            "body",
            LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb"),
            nullable=False,
        ),
    ]


def _leader_columns() -> list[Column[Any]]:
    return [
        Column("app", String(MAX_APP), primary_key=True),
        Column("token", String(MAX_TOKEN)),
        # Who that is, for people.
        Column("name", String(_MAX_NAME)),
        # The end of its lease, in ms by the database's clock.
        Column("until", BigInteger, nullable=False),
    ]


def due_index(table: Table) -> str:
    """The name of the index that holds the waiting rows in their order."""
    names = {tuple(index.columns.keys()): index.name for index in table.indexes}
    # A naming convention of the metadata may have changed it.
    return str(names[INDEXED])


def leader_table(table: Table) -> Table:
    """The table that :func:`make_outbox_table` has added beside *table*."""
    return table.metadata.tables[f"{table.key}_leader"]


def _set_autovacuum(table: Table, connection: Connection, **_: Any) -> None:
    if connection.dialect.name == "postgresql":
        statement = autovacuum_ddl(table, connection.schema_for_object(table))
        ddl = DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]
        connection.execute(ddl)


def autovacuum_ddl(table: Table, schema: str | None = None) -> str:
    """See :func:`flask_eventcollector.autovacuum_ddl`.

    :param schema: where it is; ``None``: in its own.
    """
    settings = ", ".join(f"{key} = {value}" for key, value in AUTOVACUUM.items())
    return f"ALTER TABLE {table_name(table, schema or table.schema)} SET ({settings})"


def table_name(table: Table, schema: str | None) -> str:
    """What PostgreSQL calls *table* in *schema*; ``None``: wherever it finds it."""
    quoted = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]
    name: str = quoted.quote(table.name)
    return name if schema is None else f"{quoted.quote_schema(schema)}.{name}"
