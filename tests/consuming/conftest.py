"""What the tests of several modules use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.consuming.support import Consumer, consumer_on
from tests.databases import DatabaseServer


@pytest.fixture
def consumer(database_url: str) -> Iterator[Consumer]:
    with consumer_on(database_url) as consumer:
        yield consumer


@pytest.fixture
def on_postgresql(postgresql: DatabaseServer) -> Iterator[Consumer]:
    with consumer_on(postgresql.new_database()) as consumer:
        yield consumer


@pytest.fixture
def on_mariadb(mariadb: DatabaseServer) -> Iterator[Consumer]:
    with consumer_on(mariadb.new_database()) as consumer:
        yield consumer
