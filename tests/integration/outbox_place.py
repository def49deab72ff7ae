"""Where the tests of the outbox keep orders and messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import require
from tests.databases import DatabaseServer, PostgreSQL, missing_postgresql
from tests.integration.outbox_shop import OrderShop, open_order_shop
from tests.rabbitmq import RabbitMQNode

DATABASES = ("sqlite", "postgresql")


@dataclass
class Place:
    """A database and a queue; with what a long form kills."""

    url: str
    database: DatabaseServer | None
    broker: RabbitMQNode
    queue: str

    @contextmanager
    def shop(self) -> Iterator[OrderShop]:
        with open_order_shop(self.url, self.broker.url, self.queue) as shop:
            yield shop


@contextmanager
def open_place(
    request: pytest.FixtureRequest, folder: Path, queue: str, *, is_killed: bool
) -> Iterator[Place]:
    """A place on the database that is the fixture's parameter.

    *is_killed*: its servers are not those of other tests.
    """
    node = request.getfixturevalue("private_rabbitmq" if is_killed else "rabbitmq")
    url, database = f"sqlite:///{folder / 'shop.sqlite3'}", None
    with ExitStack() as stack:
        if request.param == "postgresql":
            database = (
                stack.enter_context(_own_server())
                if is_killed
                else request.getfixturevalue("postgresql")
            )
            url = database.new_database()
        yield Place(url, database, node, node.declare(queue))
        node.delete(queue)


@contextmanager
def _own_server() -> Iterator[DatabaseServer]:
    require(missing_postgresql())
    server = PostgreSQL()
    try:
        server.start()
        yield server
    finally:
        server.close()
