"""The outbox behind PgBouncer, which gives each transaction any of its connections.

So nothing may stay in a session: no prepared statement, no lock, no setting.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import MetaData, create_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool

from flask_eventcollector import EventCollector, make_outbox_table
from tests.databases import PgBouncer
from tests.helpers import DEADLINE, Shop, wait_until
from tests.outbox.support import MUCH, Place, sent, seqs
from tests.transactions.support import Base, Order, stored

THREADS, ORDERS = 4, 25


class BouncedShop(Shop):
    """An app whose database is behind PgBouncer, in one of several processes.

    Its own connections are too short-lived for psycopg to prepare statements on them.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        self.engine = create_engine(url, poolclass=NullPool)
        self.table = make_outbox_table(MetaData())
        self.sessions = sessionmaker(self.engine)
        defaults = {"TESTING_BROKER": True, "BROKER_URL": "memory://"}
        super().__init__(EventCollector(), **{**defaults, **settings})
        self.events.bind_session(self.sessions, outbox=self.table)

    def create_tables(self) -> None:
        for metadata in Base.metadata, self.table.metadata:
            metadata.create_all(self.engine)

    def place(self, label: str) -> None:
        for number in range(ORDERS):
            with self.sessions.begin() as session:
                session.add(Order(sku=f"{label}-{number}"))
                session.flush()
                self.enqueue(f"{label}-{number}")

    def place_at_once(self) -> list[str]:
        """Place orders in several threads; returns what they told."""
        labels = [f"{number}" for number in range(THREADS)]
        threads = [threading.Thread(target=self.place, args=[name]) for name in labels]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        return sorted(f"{label}-{n}" for label in labels for n in range(ORDERS))

    def relay(self) -> Any:
        """A relay beside it."""
        state = self.extensions["eventcollector"]
        delivery, store = state.new_relay(self.events._sessions.outbox, "relay")
        store.open(self.engine)
        return delivery

    def is_empty(self) -> bool:
        with self.engine.connect() as connection:
            return connection.execute(self.table.select()).first() is None


@pytest.fixture
def url(pgbouncer: PgBouncer) -> str:
    return pgbouncer.new_database()


@pytest.fixture
def _no_problem(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The log of a test has no problem of the database."""
    yield
    assert [m for m in caplog.messages if "problem" in m] == []


@pytest.mark.usefixtures("_no_problem")
def test_processes_send_what_they_have_committed(url: str) -> None:
    shop, other = (BouncedShop(url) for _ in range(2))
    shop.create_tables()
    other.test_client().get("/")
    told = shop.place_at_once()

    assert shop.events.flush(DEADLINE)
    assert sorted(shop.sent()) == told == stored(shop.engine)
    wait_until(shop.is_empty, "the rows are erased")
    assert shop.events.stats().lost_leases == 0
    for each in shop, other:
        each.events.close()
    assert other.sent() == []


@pytest.mark.usefixtures("_no_problem")
def test_one_of_two_relays_sends_in_order(url: str) -> None:
    shop = BouncedShop(url, OUTBOX_RELAY="external")
    shop.create_tables()
    relays = [shop.relay() for _ in range(2)]
    for relay in relays:
        relay.start()
    told = shop.place_at_once()

    wait_until(shop.is_empty, "all is sent")
    wait_until(lambda: any(r.stats().confirmed == len(told) for r in relays), "by one")
    for relay in relays:
        relay.close(DEADLINE)
    (sent,) = (
        [event.payload for event in relay.broker.events("q")]
        for relay in relays
        if relay.stats().confirmed
    )
    for label in map(str, range(THREADS)):
        mine = [sku for sku in sent if sku.startswith(f"{label}-")]
        assert mine == [f"{label}-{number}" for number in range(ORDERS)]
    assert sorted(sent) == told
    shop.events.close()


def test_processes_may_share_a_connection_of_the_database(url: str) -> None:
    """psycopg prepares a statement at its sixth use, by the same name everywhere."""
    place = Place(url, poolclass=NullPool)
    outboxes = [place.outbox() for _ in range(2)]
    relays = [place.leadership(name) for name in "ab"]
    for number in range(8):
        for outbox, relay in zip(outboxes, relays, strict=True):
            place.write(outbox, [number])
            rows = outbox.claim(10, MUCH)
            assert sent(rows) == [number]
            assert outbox.renew(seqs(rows)) == outbox.erase(seqs(rows)) == 1
            assert relay.lead() is (relay is relays[0])
            assert place.admin().counts().free == 0
    place.close()
