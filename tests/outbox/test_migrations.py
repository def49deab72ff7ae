"""What Alembic generates for the table, as Flask-Migrate calls it."""

from __future__ import annotations

import importlib
import importlib.util
import textwrap
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection

from flask_eventcollector.stores.outbox.check import check
from flask_eventcollector.stores.outbox.table import autovacuum_ddl
from tests.conftest import require
from tests.outbox.support import Place, sent


@pytest.fixture(autouse=True)
def _alembic() -> None:
    found = importlib.util.find_spec("alembic")
    require(None if found else "the Python package alembic")


def context(connection: Connection, place: Place) -> Any:
    """What Alembic knows of the database, all comparisons included."""
    migration = importlib.import_module("alembic.migration")
    ours = place.metadata.tables.keys()

    def is_ours(_: object, name: str, kind: str, *__: object) -> bool:
        return kind != "table" or name in ours

    options = {"include_object": is_ours, "compare_server_default": True}
    return migration.MigrationContext.configure(connection, opts=options)


def generate(place: Place, url: str) -> str:
    """The code of a migration for the database at *url*, which lacks the tables."""
    autogenerate = importlib.import_module("alembic.autogenerate")
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        script = autogenerate.produce_migrations(
            context(connection, place), place.metadata
        )
    engine.dispose()
    code = autogenerate.render_python_code(script.upgrade_ops)
    return textwrap.dedent(f"    {code}")


def upgrade(place: Place, code: str) -> None:
    """Execute a migration."""
    operations = importlib.import_module("alembic.operations")
    with place.engine.begin() as connection:
        op = operations.Operations(context(connection, place))
        mysql = importlib.import_module("sqlalchemy.dialects.mysql")
        exec(code, {"op": op, "sa": sqlalchemy, "mysql": mysql})
        if connection.dialect.name == "postgresql":
            op.execute(autovacuum_ddl(place.table))


@pytest.mark.parametrize("made_on", ["sqlite", "the same"])
def test_a_generated_migration_makes_what_is_expected(
    new_place: Place, made_on: str
) -> None:
    autogenerate = importlib.import_module("alembic.autogenerate")
    new_place.metadata.drop_all(new_place.engine)

    url = "sqlite://" if made_on == "sqlite" else new_place.url
    upgrade(new_place, generate(new_place, url))

    with new_place.engine.connect() as connection:
        assert check(connection, new_place.table) == []
        # The next migration does not mention the tables.
        known = context(connection, new_place)
        assert autogenerate.compare_metadata(known, new_place.metadata) == []
    outbox = new_place.outbox()
    new_place.write(outbox, "ab")
    assert sent(outbox.claim(10, 1000)) == ["a", "b"]
