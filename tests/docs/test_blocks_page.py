"""The examples of docs/blocks.md, and the page's statements about them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.docs.modules import imported
from tests.docs.reader import find_one, runs
from tests.helpers import books

STOCK, COUNTING, RESERVATIONS, TOUCHING, TEST = (
    find_one(page="docs/blocks.md", file=name)
    for name in (
        "stock.py",
        "counting.py",
        "reservations.py",
        "touching.py",
        "test_counting.py",
    )
)


def sent(stock: Any, queue: str) -> list[str]:
    """The article of each published event."""
    return [event.payload["sku"] for event in stock.events.broker.events(queue)]


@runs(STOCK)
def test_a_block_publishes_all_of_it_or_nothing() -> None:
    with imported(STOCK) as (stock,), stock.app.app_context():
        stock.receive({"A1": 5, "B2": 1})
        with pytest.raises(ValueError, match="there can't be -1 of it"):
            stock.receive({"A1": 5, "B2": -1})

        assert sent(stock, "stock.received") == ["A1", "B2"]
        assert books(stock.events) == {"confirmed": 2, "discarded": 2}


@runs(COUNTING)
def test_each_call_of_a_decorated_function_is_a_block() -> None:
    with imported(STOCK, COUNTING) as (stock, counting), stock.app.app_context():
        counting.count("A1", 5)
        asyncio.run(counting.recount("B2", 1))

        assert sent(stock, "stock.counted") == ["A1", "B2"]


@runs(RESERVATIONS)
def test_a_transaction_that_fails_discards() -> None:
    errors = pytest.importorskip("sqlalchemy.exc")
    with imported(STOCK, RESERVATIONS) as (stock, module), stock.app.app_context():
        module.db.create_all()
        module.reserve("A1")
        with pytest.raises(errors.IntegrityError):
            module.reserve("A1")

        assert sent(stock, "stock.reserved") == ["A1"]
        assert books(stock.events) == {"confirmed": 1, "discarded": 1}
        module.db.engine.dispose()


@runs(TOUCHING)
def test_many_changes_make_one_event() -> None:
    with imported(STOCK, TOUCHING) as (stock, touching), stock.app.app_context():
        touching.move("A1", [5, 4, 3])
        (event,) = stock.events.broker.events("stock.counted")
        assert event.payload == {"sku": "A1", "count": 3}
        assert books(stock.events) == {"confirmed": 1, "discarded": 2}


@runs(TEST)
def test_the_double_takes_the_place_of_the_collector() -> None:
    with imported(STOCK, COUNTING, TEST) as (stock, _, test):
        test.test_a_count_is_recorded()

        assert books(stock.events) == {}
