"""``events.once()`` with an ``AsyncSession``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from tests.consuming.support import Consumer, bookings, seen

Work = Callable[[AsyncSession], Awaitable[None]]


@asynccontextmanager
async def async_session(consumer: Consumer) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(consumer.engine.url)
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


def run(consumer: Consumer, work: Work) -> None:
    async def main() -> None:
        async with async_session(consumer) as session:
            await work(session)

    asyncio.run(main())


def test_a_message_is_first_once(on_postgresql: Consumer) -> None:
    found: list[bool] = []

    async def work(session: AsyncSession) -> None:
        for _ in range(2):
            async with on_postgresql.once(session) as first:
                found.append(first)
                await session.execute(bookings.insert())
            await session.commit()

    run(on_postgresql, work)

    assert found == [True, False]
    assert on_postgresql.count(seen) == 1


def test_a_block_that_raises_leaves_no_note(on_postgresql: Consumer) -> None:
    async def work(session: AsyncSession) -> None:
        with pytest.raises(ZeroDivisionError):
            await fail(session)
        await session.commit()

    async def fail(session: AsyncSession) -> None:
        async with on_postgresql.once(session):
            raise ZeroDivisionError

    run(on_postgresql, work)

    assert on_postgresql.count(seen) == 0


def test_an_async_scoped_session_is_asked_for_the_session(
    on_postgresql: Consumer,
) -> None:
    async def work(session: AsyncSession) -> None:
        maker = async_sessionmaker(session.bind)
        scoped = async_scoped_session(maker, asyncio.current_task)
        async with on_postgresql.once(scoped) as first:
            assert first
        await scoped.commit()
        await scoped.remove()

    run(on_postgresql, work)

    assert on_postgresql.count(seen) == 1


def test_the_wrong_kind_of_with_is_refused(on_postgresql: Consumer) -> None:
    async def work(session: AsyncSession) -> None:
        with (
            pytest.raises(TypeError, match="use 'async with"),
            on_postgresql.once(session),
        ):
            pass
        with pytest.raises(TypeError, match="needs an AsyncSession: use 'with'"):
            await enter(on_postgresql)

    async def enter(consumer: Consumer) -> None:
        async with consumer.once(consumer.session()):
            pass

    run(on_postgresql, work)


def test_only_a_session_without_asyncio_can_purge(on_postgresql: Consumer) -> None:
    async def work(session: AsyncSession) -> None:
        on_postgresql.events.bind_session(session, inbox=seen)
        with pytest.raises(TypeError, match="bind a session without asyncio"):
            on_postgresql.events.purge_seen()

    run(on_postgresql, work)


def test_what_makes_async_sessions_is_refused(on_postgresql: Consumer) -> None:
    async def work(session: AsyncSession) -> None:
        maker = async_sessionmaker(session.bind)
        with pytest.raises(TypeError, match="not what makes sessions"):
            await on_postgresql.once(maker).__aenter__()

    run(on_postgresql, work)
