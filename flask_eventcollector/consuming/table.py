"""The table of the inbox. Only who makes one needs SQLAlchemy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..messages.amqp_fields import MAX_NAME_BYTES

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

_MISSING = (
    "make_inbox_table() needs SQLAlchemy 2.0.16 or newer: run"
    " pip install 'SQLAlchemy>=2.0.16'"
)


def make_inbox_table(
    metadata: MetaData, name: str = "eventcollector_seen", schema: str | None = None
) -> Table:
    """Make the table in which :meth:`EventCollector.once` notes what was handled.

    It belongs to your migrations, as your models' tables do. Its columns are
    ``consumer``, ``message_id`` and ``seen_at`` (microseconds since 1970, UTC).

    :param metadata: of your models, so that the table is in the same database: with
        Flask-SQLAlchemy ``db.metadata``, or ``db.metadatas[bind_key]``.
    :param name: the name of the table.
    :param schema: its schema; ``None``: that of *metadata*.
    :returns: the table, for ``inbox`` of :meth:`EventCollector.bind_session`.
    :raises sqlalchemy.exc.InvalidRequestError: *metadata* has such a table already.
    :raises ImportError: SQLAlchemy is not installed.
    """
    try:
        from sqlalchemy import BigInteger, Column, Index, String, Table
    except ImportError as error:
        raise ImportError(_MISSING) from error
    # Compared as it is; MySQL would ignore upper and lower case.
    exact = String(MAX_NAME_BYTES, collation="utf8mb4_bin")
    name_type = String(MAX_NAME_BYTES).with_variant(exact, "mysql", "mariadb")
    return Table(
        name,
        metadata,
        Column("consumer", name_type, primary_key=True),
        Column("message_id", name_type, primary_key=True),
        Column("seen_at", BigInteger, nullable=False),
        Index(f"ix_{name}_seen_at", "seen_at"),
        schema=schema,
        # Others have no transactions.
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
