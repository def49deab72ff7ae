"""Compares the table in the database with what this version expects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Index, Inspector, Table, inspect, text
from sqlalchemy.schema import CreateIndex

from .table import AUTOVACUUM, autovacuum_ddl, leader_table, table_name

#: What databases call the same type.
_SAME_TYPE = {"BOOL": "TINYINT", "INT": "INTEGER"}


class Difference(NamedTuple):
    """Something in the database that is not as expected."""

    what: str
    #: What to do about it.
    cure: str

    def __str__(self) -> str:
        return f"{self.what}: {self.cure}"


def check(connection: Connection, table: Table) -> list[Difference]:
    """How the outbox's tables in the database differ from what is expected.

    Columns and indexes that the library does not know are no difference, as long as it
    can write rows without them: they may be of a newer version.

    :param connection: to the database, with the ``schema_translate_map`` if there is
        one.
    :param table: of :func:`.make_outbox_table`.
    :raises sqlalchemy.exc.SQLAlchemyError: the database failed.
    """
    found = [
        difference
        for expected in (table, leader_table(table))
        for difference in _Check(connection, expected).differences()
    ]
    name = connection.dialect.name
    if name == "postgresql" and not any(d.cure == _CREATE for d in found):
        found += _autovacuum(connection, table)
    return found


_CREATE = "run your migrations, or generate one that creates it"


class _Check:
    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._dialect = connection.dialect
        self._table = table
        schema = connection.schema_for_object(table)
        self._inspector: Inspector = inspect(connection)
        self._place: dict[str, Any] = {"table_name": table.name, "schema": schema}

    def differences(self) -> Iterator[Difference]:
        if not self._inspector.has_table(**self._place):
            yield Difference(f"There is no table {self._table.fullname}", _CREATE)
            return
        live = {c["name"]: c for c in self._inspector.get_columns(**self._place)}
        for column in self._table.columns:
            yield from self._column(column, live.pop(column.name, None))
        for name, unknown in live.items():
            yield from self._unknown_column(name, unknown)
        yield from self._numbers()
        for index in self._table.indexes:
            yield from self._index(index)
        yield from self._engine()

    # Columns.

    def _column(
        self, column: Column[Any], live: Mapping[str, Any] | None
    ) -> Iterator[Difference]:
        name = f"{self._table.fullname}.{column.name}"
        expected = column.type.compile(dialect=self._dialect)
        if live is None:
            yield Difference(f"There is no column {name}", f"add it as {expected}")
            return
        found = live["type"].compile(dialect=self._dialect)
        if not _is_as_wide(found, expected):
            yield Difference(f"{name} is {found}", f"alter it to {expected}")
        if live["nullable"] != column.nullable:
            is_ = "may be" if live["nullable"] else "must not be"
            cure = "alter it to NULL" if column.nullable else "alter it to NOT NULL"
            yield Difference(f"{name} {is_} NULL", cure)

    def _unknown_column(
        self, name: str, live: Mapping[str, Any]
    ) -> Iterator[Difference]:
        if not live["nullable"] and live["default"] is None:
            yield Difference(
                f"{self._table.fullname}.{name} is unknown, and needs a value",
                "give it a default, or drop it",
            )

    def _numbers(self) -> Iterator[Difference]:
        """Whether the database numbers the rows, and uses no number twice."""
        column = self._table.autoincrement_column
        if column is None or self._is_numbered(column.name):
            return
        yield Difference(
            f"{self._table.fullname}.{column.name} gets no number of its own",
            "create the table as a generated migration does (BIGSERIAL on PostgreSQL,"
            " AUTO_INCREMENT on MySQL, AUTOINCREMENT on SQLite)",
        )

    def _is_numbered(self, name: str) -> bool:
        if self._dialect.name == "sqlite":
            schema = text("SELECT sql FROM sqlite_master WHERE name = :name")
            ddl = self._connection.scalar(schema, {"name": self._table.name})
            return "AUTOINCREMENT" in str(ddl).upper()
        live = {c["name"]: c for c in self._inspector.get_columns(**self._place)}
        column: Mapping[str, Any] = live.get(name, {})
        return bool(column.get("autoincrement") or column.get("identity"))

    # Indexes.

    def _index(self, index: Index) -> Iterator[Difference]:
        columns = [column.name for column in index.columns]
        live = {found["name"]: found for found in self._indexes()}.get(index.name)
        cure = str(CreateIndex(index).compile(dialect=self._dialect))
        if live is None:
            yield Difference(f"There is no index {index.name}", cure)
        elif live["column_names"] != columns:
            found = ", ".join(map(str, live["column_names"]))
            what = f"The index {index.name} is on ({found})"
            yield Difference(what, f"drop it, then {cure}")
        elif not self._is_partial(live):
            what = f"The index {index.name} is not limited to waiting rows"
            yield Difference(what, f"drop it, then {cure}")

    def _indexes(self) -> Sequence[Any]:
        return self._inspector.get_indexes(**self._place)

    def _is_partial(self, live: Any) -> bool:
        name = self._dialect.name
        if name not in ("postgresql", "sqlite"):
            return True
        where = live.get("dialect_options", {}).get(f"{name}_where", "")
        return re.findall(r"\w+|=", str(where)) == ["state", "=", "0"]

    def _engine(self) -> Iterator[Difference]:
        """Whether MySQL keeps the table in the engine that has transactions."""
        if self._dialect.name not in ("mysql", "mariadb"):
            return
        options = self._inspector.get_table_options(**self._place)
        engine = options.get(f"{self._dialect.name}_engine")
        if engine != "InnoDB":
            name = self._table.fullname
            cure = f"ALTER TABLE {name} ENGINE = InnoDB"
            yield Difference(f"{name} is kept by the engine {engine}", cure)


def _is_as_wide(found: str, expected: str) -> bool:
    """Whether *found* is the same type, of the same length at least."""
    (name, length), (other, wanted) = map(_parts, (found, expected))
    return name == other and (not wanted or not length or length >= wanted)


def _parts(type_: str) -> tuple[str, int]:
    """The name of a type, and its length; 0: it has none."""
    name, length = re.findall(r"^(\w+)(?:\((\d+)\))?", type_.upper())[0]
    is_text = name == "VARCHAR"
    return _SAME_TYPE.get(name, name), int(length) if is_text and length else 0


def _autovacuum(connection: Connection, table: Table) -> Iterator[Difference]:
    schema = connection.schema_for_object(table)
    name = table_name(table, schema)
    query = text("SELECT reloptions FROM pg_class WHERE oid = to_regclass(:name)")
    found = connection.scalar(query, {"name": name}) or []
    live = dict(option.split("=", 1) for option in found)
    if any(live.get(key) != value for key, value in AUTOVACUUM.items()):
        what = f"{table.fullname} is vacuumed by the database's defaults, which is late"
        yield Difference(what, autovacuum_ddl(table, schema))
