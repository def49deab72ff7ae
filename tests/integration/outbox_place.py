"""Where the tests of the outbox keep orders and messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import require
from tests.databases import DatabaseServer, PostgreSQL, missing_postgresql
from tests.integration.load import marked, second_copies
from tests.integration.outbox_shop import OrderShop, open_order_shop
from tests.rabbitmq import Message, RabbitMQNode

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


class Comparison:
    """What the database has and what the queue has."""

    def __init__(self, orders: list[str], messages: list[Message]) -> None:
        told = [message.json() for message in messages]
        copies = list(second_copies(messages))
        self.orders = set(orders)
        self.ghosts = set(told) - self.orders
        self.lost = self.orders - set(told)
        self.copies = [copy.json() for copy in copies]
        self.unmarked = [copy.json() for copy in copies if not marked([copy])]
        self.disordered = list(disordered(told))
        self.ids = {message.id for message in messages}

    def __str__(self) -> str:
        counts = {name: len(found) for name, found in vars(self).items()}
        return ", ".join(f"{count} {name}" for name, count in counts.items())


def disordered(told: Iterable[str]) -> Iterator[str]:
    """What comes for the first time after a later order of the same thread."""
    seen, latest = set[str](), dict[str, int]()
    for sku in told:
        label, number = sku.split("-")[:2]
        if sku not in seen and int(number) < latest.get(label, 0):
            yield sku
        seen.add(sku)
        latest[label] = max(int(number), latest.get(label, 0))
