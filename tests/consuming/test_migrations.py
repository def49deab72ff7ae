"""What Alembic generates for the table of the inbox."""

from __future__ import annotations

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import create_engine

from tests.consuming.support import Consumer, metadata, seen
from tests.migrations import differences, generate, require_alembic, upgrade


@pytest.fixture(autouse=True)
def _alembic() -> None:
    require_alembic()


@pytest.mark.parametrize("made_on", ["sqlite", "the same"])
def test_a_generated_migration_makes_a_table_that_works(
    database_url: str, made_on: str
) -> None:
    code = generate(metadata, "sqlite://" if made_on == "sqlite" else database_url)
    engine = create_engine(database_url)
    with engine.begin() as connection:
        upgrade(connection, metadata, code)

    with engine.connect() as connection:
        # The next migration does not mention the table.
        assert differences(connection, metadata) == []
    consumer = Consumer(engine)
    with consumer.session() as session:
        handled = [consumer.handle(session, id) for id in ("a", "A", "a")]
        session.commit()
    # Names are compared as they are.
    assert handled == [True, True, False]
    assert consumer.count(seen) == 2
    engine.dispose()
