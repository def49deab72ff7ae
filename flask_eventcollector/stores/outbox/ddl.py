"""The statements that create the outbox's tables."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Dialect, Table
from sqlalchemy.schema import CreateIndex, CreateTable

from .table import autovacuum_ddl, leader_table


def ddl(table: Table, dialect: Dialect) -> Iterator[str]:
    """The statements that create the outbox's tables and indexes, for a migration.

    :param table: of :func:`.make_outbox_table`.
    """
    for created in (table, leader_table(table)):
        yield str(CreateTable(created).compile(dialect=dialect)).strip()
        for index in created.indexes:
            yield str(CreateIndex(index).compile(dialect=dialect))
    if dialect.name == "postgresql":
        yield autovacuum_ddl(table)
