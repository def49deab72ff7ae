"""The table, and what is checked about it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.schema import CreateIndex, CreateTable

from flask_eventcollector import autovacuum_ddl, make_outbox_table
from flask_eventcollector.stores.outbox.check import Difference, check
from flask_eventcollector.stores.outbox.table import leader_table
from tests.outbox.support import MUCH, Place, sent

on = pytest.mark.parametrize


@pytest.fixture
def place(new_place: Place) -> Place:
    """Its own, since the tests alter it."""
    return new_place


def differences(place: Place) -> list[str]:
    with place.engine.connect() as connection:
        return [str(difference) for difference in check(connection, place.table)]


def execute(place: Place, *ddl: str) -> None:
    with place.engine.begin() as connection:
        for statement in ddl:
            connection.execute(text(statement.format(t=place.table.name)))


def test_a_table_that_was_just_created_is_as_expected(place: Place) -> None:
    assert differences(place) == []


def test_a_table_may_have_a_schema() -> None:
    table = make_outbox_table(MetaData(), "events", schema="Shop")
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    assert str(leader_table(table)) == "Shop.events_leader"
    assert autovacuum_ddl(table).startswith('ALTER TABLE "Shop".events SET (')
    (index,) = table.indexes
    ddl = str(CreateIndex(index).compile(dialect=dialect))
    assert ddl == (
        'CREATE INDEX events_due ON "Shop".events (app, state, due, seq)'
        " WHERE state = 0"
    )
    assert "seq BIGSERIAL" in str(CreateTable(table).compile(dialect=dialect))


def test_the_metadata_may_be_copied() -> None:
    metadata, copy = MetaData(), MetaData(schema="other")
    table = make_outbox_table(metadata)
    for each in metadata.tables.values():
        each.to_metadata(copy, schema="other")
    assert leader_table(copy.tables[f"other.{table.name}"]).schema == "other"


def test_missing_tables_are_found(place: Place) -> None:
    place.metadata.drop_all(place.engine)
    name = place.table.name
    assert differences(place) == [
        f"There is no table {name}: run your migrations, or generate one that"
        " creates it",
        f"There is no table {name}_leader: run your migrations, or generate one that"
        " creates it",
    ]


def test_a_missing_column_is_found(place: Place) -> None:
    execute(place, "ALTER TABLE {t} DROP COLUMN reason")
    name = place.table.name
    assert differences(place) == [
        f"There is no column {name}.reason: add it as VARCHAR(1000)"
    ]


@on("outbox_url", ["postgresql", "mariadb"], indirect=True)
def test_a_column_that_is_too_narrow_is_found(place: Place) -> None:
    if place.engine.dialect.name == "postgresql":
        execute(
            place,
            "ALTER TABLE {t} ALTER reason TYPE VARCHAR(10)",
            "ALTER TABLE {t} ALTER size TYPE SMALLINT",
            "ALTER TABLE {t} ALTER exchange DROP NOT NULL",
        )
    else:
        execute(
            place,
            "ALTER TABLE {t} MODIFY reason VARCHAR(10)",
            "ALTER TABLE {t} MODIFY size SMALLINT NOT NULL",
            "ALTER TABLE {t} MODIFY exchange VARCHAR(255)",
        )
    name = place.table.name
    nullable, narrow, small = sorted(differences(place))
    assert nullable == f"{name}.exchange may be NULL: alter it to NOT NULL"
    assert f"{name}.reason is VARCHAR(10)" in narrow
    assert narrow.endswith(": alter it to VARCHAR(1000)")
    assert f"{name}.size is SMALLINT" in small
    assert small.endswith(": alter it to INTEGER")


def test_a_wider_column_is_as_good(place: Place) -> None:
    if place.engine.dialect.name == "postgresql":
        execute(place, "ALTER TABLE {t} ALTER reason TYPE VARCHAR(2000)")
    elif place.engine.dialect.name == "mysql":
        execute(place, "ALTER TABLE {t} MODIFY reason VARCHAR(2000)")
    assert differences(place) == []


def test_a_column_of_a_newer_version_is_no_difference(place: Place) -> None:
    execute(place, "ALTER TABLE {t} ADD part INTEGER NOT NULL DEFAULT 0")
    execute(place, "ALTER TABLE {t} ADD more INTEGER")
    assert differences(place) == []
    place.write(place.outbox(), "a")


@on("outbox_url", ["postgresql", "mariadb"], indirect=True)
def test_a_column_that_keeps_rows_from_being_written_is_found(place: Place) -> None:
    execute(place, "ALTER TABLE {t} ADD part INTEGER NOT NULL")
    assert differences(place) == [
        f"{place.table.name}.part is unknown, and needs a value: give it a default, or"
        " drop it"
    ]


def drop_index(place: Place) -> None:
    table = f" ON {place.table.name}" if place.engine.dialect.name == "mysql" else ""
    execute(place, "DROP INDEX {t}_due" + table)


def test_a_missing_index_is_found(place: Place) -> None:
    drop_index(place)
    (found,) = differences(place)
    what, _, cure = found.partition(": ")
    assert what == f"There is no index {place.table.name}_due"
    execute(place, cure)
    assert differences(place) == []


@on("outbox_url", ["sqlite", "postgresql"], indirect=True)
@on("where", ["", " WHERE state = 1", " WHERE state = 0 AND due = 0"])
def test_an_index_of_other_rows_is_found(place: Place, where: str) -> None:
    drop_index(place)
    execute(place, "CREATE INDEX {t}_due ON {t} (app, state, due, seq)" + where)
    (found,) = differences(place)
    what, _, cure = found.partition(": ")
    assert what == f"The index {place.table.name}_due is not limited to waiting rows"
    assert cure.startswith("drop it, then CREATE INDEX")


def test_an_index_on_other_columns_is_found(place: Place) -> None:
    drop_index(place)
    execute(place, "CREATE INDEX {t}_due ON {t} (app, due, seq)")
    (found,) = differences(place)
    what, _, cure = found.partition(": ")
    assert what == f"The index {place.table.name}_due is on (app, due, seq)"
    assert cure.startswith("drop it, then CREATE INDEX")


@on("outbox_url", ["postgresql"], indirect=True)
def test_how_a_table_is_vacuumed_is_checked(place: Place) -> None:
    execute(place, "ALTER TABLE {t} RESET (autovacuum_vacuum_threshold)")
    (found,) = differences(place)
    assert found.endswith(autovacuum_ddl(place.table))
    execute(place, autovacuum_ddl(place.table))
    assert differences(place) == []


@on("outbox_url", ["mariadb"], indirect=True)
def test_an_engine_without_transactions_is_found(place: Place) -> None:
    execute(place, "ALTER TABLE {t} ENGINE = MyISAM")
    (found,) = differences(place)
    assert found.endswith(f"ALTER TABLE {place.table.name} ENGINE = InnoDB")


UNNUMBERED: dict[str, Callable[[str], str]] = {
    "sqlite": lambda ddl: ddl.replace("AUTOINCREMENT", ""),
    "postgresql": lambda ddl: ddl.replace("BIGSERIAL", "BIGINT"),
    "mysql": lambda ddl: ddl.replace("AUTO_INCREMENT", ""),
}


def test_a_table_that_does_not_number_its_rows_is_found(place: Place) -> None:
    ddl = str(CreateTable(place.table).compile(place.engine))
    unnumbered = UNNUMBERED[place.engine.dialect.name](ddl)
    assert unnumbered != ddl
    name = place.table.name
    execute(place, f"DROP TABLE {name}", unnumbered)
    found = differences(place)
    assert found[0].startswith(f"{name}.seq gets no number of its own: ")


@on("outbox_url", ["postgresql"], indirect=True)
def test_the_schema_of_the_tenant_is_checked(place: Place) -> None:
    tenant = f"Tenant_{place.table.name}"
    execute(place, f'CREATE SCHEMA "{tenant}"')

    def of_tenant(connection: Connection) -> list[Difference]:
        options = {"schema_translate_map": {None: tenant}}
        return check(connection.execution_options(**options), place.table)

    def found(connection: Connection) -> int:
        return len(of_tenant(connection))

    with place.engine.begin() as connection:
        assert found(connection) == 2
    mapped = place.engine.execution_options(schema_translate_map={None: tenant})
    place.metadata.create_all(mapped)
    with place.engine.connect() as connection:
        assert found(connection) == 0
        # Whoever creates it by hand may forget its settings for vacuums.
        table = f'"{tenant}".{place.table.name}'
        connection.exec_driver_sql(
            f"ALTER TABLE {table} RESET (autovacuum_vacuum_threshold)"
        )
        (difference,) = of_tenant(connection)
    assert difference.cure.startswith(f"ALTER TABLE {table} SET (")


def test_a_second_table_of_the_same_name_is_refused() -> None:
    for schema in None, "shared":
        metadata = MetaData(schema=schema)
        make_outbox_table(metadata)
        with pytest.raises(
            InvalidRequestError, match=r"call make_outbox_table\(\) once"
        ):
            make_outbox_table(metadata)
        make_outbox_table(metadata, "other")
        make_outbox_table(metadata, schema="other")


@on("outbox_url", ["mariadb"], indirect=True)
def test_a_naming_convention_may_change_the_name_of_the_index(outbox_url: str) -> None:
    place = Place(outbox_url, naming={"ix": "%(table_name)s_%(constraint_name)s"})
    (index,) = place.table.indexes
    assert index.name == f"{place.table.name}_{place.table.name}_due"
    outbox = place.outbox()
    place.write(outbox, "a")
    assert sent(outbox.claim(1, MUCH)) == ["a"]
    place.close()
