"""The sessions of asyncio: SQLAlchemy calls the hooks in a greenlet of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from flask_eventcollector import PublishResult
from tests.helpers import Shop
from tests.transactions.support import NOT_COMMITTED, ROLLED_BACK, Base, Order

pytest.importorskip("aiosqlite")

Bind = Callable[[Shop, async_sessionmaker[AsyncSession]], AsyncSession]


def bind_maker(shop: Shop, maker: async_sessionmaker[AsyncSession]) -> AsyncSession:
    shop.events.bind_session(maker)
    return maker()


def bind_class(shop: Shop, maker: async_sessionmaker[AsyncSession]) -> AsyncSession:
    shop.events.bind_session(AsyncSession)
    return maker()


def bind_session(shop: Shop, maker: async_sessionmaker[AsyncSession]) -> AsyncSession:
    session = maker()
    shop.events.bind_session(session)
    return session


def bind_registry(shop: Shop, maker: async_sessionmaker[AsyncSession]) -> AsyncSession:
    registry = async_scoped_session(maker, asyncio.current_task)
    shop.events.bind_session(registry)
    return registry()


def bind_function(shop: Shop, maker: async_sessionmaker[AsyncSession]) -> AsyncSession:
    session = maker()
    shop.events.bind_session(lambda: session)
    return session


@pytest.fixture(
    params=[bind_maker, bind_class, bind_session, bind_registry, bind_function],
    ids=lambda bind: bind.__name__,
)
def bind(request: pytest.FixtureRequest) -> Bind:
    chosen: Bind = request.param
    return chosen


@asynccontextmanager
async def open_maker(folder: Path) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'shop.sqlite3'}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield async_sessionmaker(engine)
    await engine.dispose()


async def place(shop: Shop, session: AsyncSession, sku: str) -> None:
    session.add(Order(sku=sku))
    await session.flush()
    shop.enqueue(sku)


def run(
    folder: Path, test: Callable[[async_sessionmaker[AsyncSession]], Awaitable[None]]
) -> None:
    async def with_maker() -> None:
        async with open_maker(folder) as maker:
            await test(maker)

    asyncio.run(with_maker())


def test_whatever_is_bound_its_transactions_decide(
    shop: Shop, bind: Bind, tmp_path: Path
) -> None:
    async def test(maker: async_sessionmaker[AsyncSession]) -> None:
        async with bind(shop, maker) as session:
            await place(shop, session, "a")
            await session.commit()
            await place(shop, session, "b")
            await session.rollback()
            await place(shop, session, "c")
            savepoint = await session.begin_nested()
            await place(shop, session, "d")
            await savepoint.rollback()
            await session.commit()
            await session.scalars(select(Order))
            shop.enqueue("e")
            await session.close()
            await place(shop, session, "f")
            await session.close()

    with shop.events.capture() as captured, shop.events.auto_publish():
        run(tmp_path, test)

    assert [event.payload for event in captured.published] == ["a", "c", "e"]
    found = {event.payload: event.reason for event in captured.discarded}
    assert found == {"b": ROLLED_BACK, "d": ROLLED_BACK, "f": NOT_COMMITTED}


def test_a_commit_publishes_what_was_held_back(
    shop: Shop, bind: Bind, tmp_path: Path
) -> None:
    async def test(maker: async_sessionmaker[AsyncSession]) -> None:
        async with bind(shop, maker) as session:
            await place(shop, session, "a")
            assert shop.events.publish() == PublishResult(held=1)
            await session.commit()
            assert shop.sent() == ["a"]

    run(tmp_path, test)


def test_each_task_has_its_own_transaction(shop: Shop, tmp_path: Path) -> None:
    async def test(maker: async_sessionmaker[AsyncSession]) -> None:
        shop.events.bind_session(maker)
        begun: list[str] = []

        async def reserve(sku: str, *, commits: bool) -> None:
            async with maker() as session:
                await session.scalars(select(Order))
                begun.append(sku)
                while len(begun) < 2:
                    await asyncio.sleep(0)
                # Only one of them writes at a time: it is SQLite.
                async with writing:
                    await place(shop, session, sku)
                    await (session.commit() if commits else session.rollback())

        writing = asyncio.Lock()
        await asyncio.gather(reserve("a", commits=True), reserve("b", commits=False))

    with shop.events.auto_publish():
        run(tmp_path, test)

    assert shop.sent() == ["a"]
    assert shop.books() == {"confirmed": 1, "discarded": 1}


def test_what_a_task_awaits_belongs_to_its_transaction(
    shop: Shop, tmp_path: Path
) -> None:
    async def test(maker: async_sessionmaker[AsyncSession]) -> None:
        shop.events.bind_session(maker)

        async def tell() -> None:
            shop.enqueue("a")

        async with maker() as session:
            session.add(Order(sku="a"))
            await session.flush()
            await asyncio.create_task(tell())
            await session.rollback()

    with shop.events.auto_publish():
        run(tmp_path, test)

    assert shop.books() == {"discarded": 1}


def test_a_block_of_a_session_that_raises_is_closed_by_another_task(
    shop: Shop, tmp_path: Path
) -> None:
    async def test(maker: async_sessionmaker[AsyncSession]) -> None:
        shop.events.bind_session(maker)
        with suppress(LookupError):
            async with maker() as session:
                await place(shop, session, "a")
                raise LookupError

    with shop.events.capture() as captured, shop.events.auto_publish():
        run(tmp_path, test)

    captured.assert_discarded("q", "a", reason=NOT_COMMITTED)


def test_a_savepoint_that_commits_is_warned_of(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(maker: async_sessionmaker[AsyncSession]) -> None:
        shop.events.bind_session(maker)
        async with maker() as session:
            async with session.begin_nested():
                session.add(Order(sku="a"))
            await session.rollback()
        async with maker() as session:
            assert list(await session.scalars(select(Order.sku))) == ["a"]

    run(tmp_path, test)

    assert any("SQLite begins a transaction at a sav" in m for m in caplog.messages)
