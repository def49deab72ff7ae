"""An outbox whose transactions are those of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("aiosqlite")

from sqlalchemy import Engine, MetaData, create_engine, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from flask_eventcollector import EventCollector, make_outbox_table
from tests.helpers import DEADLINE, Shop, wait_until
from tests.transactions.support import Base, Order


class AsyncShop(Shop):
    """An app whose sessions are those of asyncio, with an outbox."""

    def __init__(self, url: str, outbox_engine: Engine | None = None) -> None:
        self.url = url.replace("sqlite://", "sqlite+aiosqlite://")
        self._engine = create_engine(url)
        self.table = make_outbox_table(MetaData())
        self.table.metadata.create_all(self._engine)
        Base.metadata.create_all(self._engine)
        super().__init__(EventCollector(), TESTING_BROKER=True, BROKER_URL="memory://")
        self._outbox_engine = outbox_engine

    async def place(self, sku: str, **options: Any) -> None:
        engine = create_async_engine(self.url, **options)
        sessions = async_sessionmaker(engine)
        self.events.bind_session(
            sessions, outbox=self.table, outbox_engine=self._outbox_engine
        )
        async with sessions.begin() as session:
            session.add(Order(sku=sku))
            await session.flush()
            self.enqueue(sku)
        await engine.dispose()

    def rows(self) -> list[int]:
        with self._engine.connect() as connection:
            return list(connection.scalars(select(self.table.c.seq)))

    def close(self) -> None:
        self.events.close(0)
        self._engine.dispose()


@contextmanager
def opened(url: str, outbox_engine: Engine | None = None) -> Iterator[AsyncShop]:
    shop = AsyncShop(url, outbox_engine)
    try:
        yield shop
    finally:
        shop.close()


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_what_is_committed_is_sent(database_url: str) -> None:
    with opened(database_url) as shop:
        asyncio.run(shop.place("a"))

        assert shop.events.flush(DEADLINE)
        assert shop.sent() == ["a"]
        wait_until(lambda: not shop.rows(), "its row is erased")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_engine_may_be_given(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(database_url)
    with opened(database_url, engine) as shop:
        # A driver that no other one stands in for.
        from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite

        monkeypatch.setattr(SQLiteDialect_aiosqlite, "driver", "asyncpg")
        asyncio.run(shop.place("a"))

        assert shop.events.flush(DEADLINE)
        assert shop.sent() == ["a"]
    engine.dispose()
