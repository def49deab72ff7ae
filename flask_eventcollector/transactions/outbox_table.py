"""The table of the outbox. Only who makes one needs SQLAlchemy."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table


def make_outbox_table(
    metadata: MetaData, name: str = "eventcollector_outbox", schema: str | None = None
) -> Table:
    """Add the outbox's table to *metadata*, so that your migrations create it.

    A second, small table is added with it, whose name has the suffix ``_leader``: it
    says which relay is the active one. ``metadata.create_all()`` creates both, and so
    does what Alembic generates. On PostgreSQL, the migration should also execute
    :func:`autovacuum_ddl`.

    :param metadata: for example ``db.metadata`` of Flask-SQLAlchemy. It must be that
        of the database whose transactions the events belong to.
    :param name: the table's name: at most 55 characters, since PostgreSQL cuts off
        longer names.
    :param schema: its schema; ``None``: that of *metadata*.
    :returns: the table, for ``outbox`` of :meth:`EventCollector.bind_session`.
    :raises sqlalchemy.exc.InvalidRequestError: *metadata* has such a table already.
    :raises ImportError: SQLAlchemy is not installed.
    """
    made: Table = _module().make_outbox_table(metadata, name, schema)
    return made


def autovacuum_ddl(table: Table) -> str:
    """The statement that has PostgreSQL vacuum the outbox's table in time.

    Have the migration that creates the table execute it, with ``op.execute()``, if its
    database is a PostgreSQL. ``create_all()`` executes it by itself.

    See https://www.postgresql.org/docs/current/runtime-config-autovacuum.html.

    :param table: what :func:`make_outbox_table` has returned.
    :returns: the statement, as text.
    :raises ImportError: SQLAlchemy is not installed.
    """
    ddl: str = _module().autovacuum_ddl(table)
    return ddl


def _module() -> ModuleType:
    try:
        from ..stores.outbox import table
    except ImportError as error:
        raise ImportError(
            "the outbox needs SQLAlchemy 2.0.16 or newer: run"
            " pip install 'SQLAlchemy>=2.0.16'"
        ) from error
    return table
