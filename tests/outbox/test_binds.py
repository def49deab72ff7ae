"""Sessions with several databases, of which one has the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import Engine, MetaData, select
from sqlalchemy.orm import Session, sessionmaker

from flask_eventcollector import ConfigurationError, EventCollector, make_outbox_table
from tests.databases import DatabaseServer
from tests.helpers import DEADLINE, Shop
from tests.transactions.support import Order, Visit, new_engine, stored, url_in

ELSEWHERE = "Events are written to "


class TwoDatabases:
    """Orders are in the first one, visits in the second; the outbox is in either."""

    def __init__(self, first: Engine, second: Engine, outbox_in: int) -> None:
        self.engines = (first, second)
        self.table = make_outbox_table(MetaData())
        self.engine = self.engines[outbox_in]
        self.table.metadata.drop_all(self.engine)
        self.table.metadata.create_all(self.engine)
        self.binds: dict[Any, Engine] = {Order: first, Visit: second}
        self.events = EventCollector()

    def bind(self, **options: Any) -> sessionmaker[Session]:
        binds = {**self.binds, self.table: self.engine}
        maker = sessionmaker(binds=binds, **options)
        self.events.bind_session(maker, outbox=self.table)
        return maker

    @contextmanager
    def shop(self, **settings: Any) -> Iterator[Shop]:
        defaults: dict[str, Any] = {"TESTING_BROKER": True, "BROKER_URL": "memory://"}
        shop = Shop(self.events, **(defaults | settings))
        try:
            yield shop
        finally:
            self.events.close(0)


@contextmanager
def two(folder: Path, outbox_in: int) -> Iterator[TwoDatabases]:
    engines = [new_engine(url_in(folder / name)) for name in _folders(folder)]
    yield TwoDatabases(engines[0], engines[1], outbox_in)
    for engine in engines:
        engine.dispose()


def _folders(folder: Path) -> list[str]:
    for name in "first", "second":
        (folder / name).mkdir()
    return ["first", "second"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith(ELSEWHERE)]


@pytest.mark.parametrize("testing_broker", [True, False])
def test_events_in_another_database_than_the_state_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, testing_broker: bool
) -> None:
    settings = {"TESTING_BROKER": testing_broker}
    with two(tmp_path, outbox_in=1) as place, place.shop(**settings) as shop:
        sessions = place.bind()
        for sku in "ab":
            with sessions.begin() as session:
                session.add(Order(sku=sku))
                shop.enqueue(sku)
        assert shop.events.flush(DEADLINE)
        assert shop.sent() == ["a", "b"]

    (warning,) = warnings(caplog)
    first, second = (f"{n}/shop.sqlite3" for n in ("first", "second"))
    assert warning.index(second) < warning.index(first)
    assert "Pass make_outbox_table() the metadata of that database" in warning


def test_events_with_their_state_are_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with two(tmp_path, outbox_in=0) as place, place.shop() as shop:
        with place.bind().begin() as session:
            session.add(Order(sku="a"))
            session.scalars(select(Visit)).all()
            shop.enqueue("a")
        assert shop.events.flush(DEADLINE)
    assert warnings(caplog) == []


@pytest.mark.parametrize("outbox_in", [0, 1])
@pytest.mark.parametrize("is_used", [True, False])
def test_a_commit_with_open_savepoints_writes_where_the_outbox_is(
    tmp_path: Path, outbox_in: int, is_used: bool
) -> None:
    with two(tmp_path, outbox_in) as place, place.shop() as shop:
        with place.bind().begin() as session:
            session.begin_nested()
            session.add(Order(sku="a"))
            if is_used:
                session.add(Visit())
            session.flush()
            shop.enqueue("a")
        assert stored(place.engines[0]) == ["a"]
        assert shop.books()["outboxed"] == 1
        assert shop.events.flush(DEADLINE)
        assert shop.sent() == ["a"]


@pytest.mark.parametrize("testing_broker", [True, False])
def test_a_session_without_a_database_for_the_outbox_fails_each_commit(
    tmp_path: Path, testing_broker: bool
) -> None:
    settings = {"TESTING_BROKER": testing_broker}
    with two(tmp_path, outbox_in=0) as place, place.shop(**settings) as shop:
        sessions = sessionmaker(binds=place.binds)
        shop.events.bind_session(sessions, outbox=place.table)
        for _ in range(2):
            with sessions() as session:
                session.add(Order(sku="a"))
                session.flush()
                shop.enqueue("a")
                with pytest.raises(ConfigurationError, match="no database for the"):
                    session.commit()
        assert stored(place.engines[0]) == []


# Two-phase commit.


def test_sqlite_has_no_two_phase_commit(tmp_path: Path) -> None:
    with two(tmp_path, outbox_in=0) as place:
        place.bind(twophase=True)
        shop = Shop(place.events, TESTING_BROKER=True, BROKER_URL="memory://")
        with pytest.raises(ConfigurationError, match="remove twophase=True"):
            shop.enqueue("a")


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> DatabaseServer:
    found: DatabaseServer = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("outbox_in", [0, 1])
@pytest.mark.parametrize("has_savepoint", [True, False])
def test_two_databases_commit_together_in_two_phases(
    server: DatabaseServer,
    outbox_in: int,
    has_savepoint: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = (new_engine(server.new_database()) for _ in range(2))
    place = TwoDatabases(first, second, outbox_in)
    with place.shop() as shop:
        sessions = place.bind(twophase=True)
        with sessions.begin() as session:
            if has_savepoint:
                session.begin_nested()
            session.add_all([Order(sku="a"), Visit()])
            session.flush()
            shop.enqueue("a")
        assert stored(first) == ["a"]
        assert shop.books()["outboxed"] == 1
        assert shop.events.flush(DEADLINE)
        assert shop.sent() == ["a"]

        with sessions() as session:
            session.add_all([Order(sku="b"), Visit()])
            shop.enqueue("b")
            session.flush()
            session.rollback()
        assert shop.books()["discarded"] == 1
    assert warnings(caplog) == []
    first.dispose()
    second.dispose()
