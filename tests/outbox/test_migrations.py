"""What Alembic generates for the outbox's tables."""

from __future__ import annotations

import pytest

from flask_eventcollector.stores.outbox.check import check
from flask_eventcollector.stores.outbox.table import autovacuum_ddl
from tests.migrations import differences, generate, require_alembic, upgrade
from tests.outbox.support import Place, sent


@pytest.fixture(autouse=True)
def _alembic() -> None:
    require_alembic()


@pytest.mark.parametrize("made_on", ["sqlite", "the same"])
def test_a_generated_migration_makes_what_is_expected(
    new_place: Place, made_on: str
) -> None:
    new_place.metadata.drop_all(new_place.engine)

    url = "sqlite://" if made_on == "sqlite" else new_place.url
    code = generate(new_place.metadata, url)
    with new_place.engine.begin() as connection:
        op = upgrade(connection, new_place.metadata, code)
        if connection.dialect.name == "postgresql":
            op.execute(autovacuum_ddl(new_place.table))

    with new_place.engine.connect() as connection:
        assert check(connection, new_place.table) == []
        # The next migration does not mention the tables.
        assert differences(connection, new_place.metadata) == []
    outbox = new_place.outbox()
    new_place.write(outbox, "ab")
    assert sent(outbox.claim(10, 1000)) == ["a", "b"]
