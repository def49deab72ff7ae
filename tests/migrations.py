"""What Alembic generates for tables, as Flask-Migrate calls it."""

from __future__ import annotations

import importlib
import importlib.util
import textwrap
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, MetaData

from tests.conftest import require


def require_alembic() -> None:
    """Skip the test without Alembic."""
    found = importlib.util.find_spec("alembic")
    require(None if found else "the Python package alembic")


def context(connection: Connection, metadata: MetaData) -> Any:
    """What Alembic knows of the database, all comparisons included."""
    migration = importlib.import_module("alembic.migration")
    ours = metadata.tables.keys()

    def is_ours(_: object, name: str, kind: str, *__: object) -> bool:
        return kind != "table" or name in ours

    options = {"include_object": is_ours, "compare_server_default": True}
    return migration.MigrationContext.configure(connection, opts=options)


def generate(metadata: MetaData, url: str) -> str:
    """The code of a migration for the database at *url*, which lacks the tables."""
    autogenerate = importlib.import_module("alembic.autogenerate")
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        known = context(connection, metadata)
        script = autogenerate.produce_migrations(known, metadata)
    engine.dispose()
    code = autogenerate.render_python_code(script.upgrade_ops)
    return textwrap.dedent(f"    {code}")


def upgrade(connection: Connection, metadata: MetaData, code: str) -> Any:
    """Execute a migration; returns what else it may do."""
    operations = importlib.import_module("alembic.operations")
    op = operations.Operations(context(connection, metadata))
    mysql = importlib.import_module("sqlalchemy.dialects.mysql")
    exec(code, {"op": op, "sa": sqlalchemy, "mysql": mysql})
    return op


def differences(connection: Connection, metadata: MetaData) -> list[Any]:
    """What the next migration would change."""
    autogenerate = importlib.import_module("alembic.autogenerate")
    found: list[Any] = autogenerate.compare_metadata(
        context(connection, metadata), metadata
    )
    return found
