"""An app with an outbox, in a process that is killed while it places orders."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from flask import Flask
from sqlalchemy import Engine, MetaData, create_engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from flask_eventcollector import EventCollector, make_outbox_table
from tests.transactions.support import Base, Order, obey_savepoints

LEASE = 1.0
#: Seconds between two transactions of a thread, since the machine has other work.
PAUSE = 0.002


def open_engine(url: str) -> Engine:
    """An engine on which SQLite obeys savepoints."""
    engine = create_engine(url, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        obey_savepoints(engine)
    return engine


class OrderShop:
    """Places orders in transactions of several kinds, each with its events."""

    def __init__(self, url: str, broker: str, queue: str, relay: str = "own") -> None:
        self.engine = open_engine(url)
        self.table = make_outbox_table(MetaData())
        self.sessions = sessionmaker(self.engine)
        self.app = Flask("shop")
        self.app.config.update(
            EVENTCOLLECTOR_BROKER_URL=broker,
            EVENTCOLLECTOR_QUEUES={queue: {}},
            EVENTCOLLECTOR_OUTBOX_LEASE=LEASE,
            EVENTCOLLECTOR_OUTBOX_RELAY=relay,
            EVENTCOLLECTOR_RETRY_MAX_DELAY=1,
        )
        self.events = EventCollector(self.app)
        self.events.bind_session(self.sessions, outbox=self.table)
        self._queue = queue

    def create_tables(self) -> None:
        """Create the tables for all processes."""
        Base.metadata.create_all(self.engine)
        self.table.metadata.create_all(self.engine)

    def orders(self) -> list[str]:
        """What is committed."""
        with self.engine.connect() as connection:
            return list(connection.scalars(select(Order.sku)))

    def rows(self) -> int:
        """How many rows the outbox has."""
        with self.engine.connect() as connection:
            count = select(func.count()).select_from(self.table)
            return connection.scalar(count) or 0

    def work(self, label: str, is_over: Callable[[], bool] = lambda: False) -> None:
        """Place orders until it *is_over*, of which a third is rolled back."""
        for number in itertools.takewhile(lambda _: not is_over(), itertools.count()):
            # The database may be down, or the commit's answer may be lost.
            with suppress(SQLAlchemyError):
                self._place(f"{label}-{number}", number)
            if not number:
                sys.stdout.write("ready\n")
                sys.stdout.flush()
            threading.Event().wait(PAUSE)

    def _place(self, sku: str, number: int) -> None:
        with self.sessions() as session, session.begin():
            self._write(session, sku)
            if number % 3 == 1:
                session.rollback()
            elif number % 3 == 2:
                savepoint = session.begin_nested()
                self._write(session, f"{sku}-a")
                savepoint.rollback()
                with session.begin_nested(), self.sessions() as other:
                    # Another session that reads, in the middle of a savepoint.
                    other.get(Order, sku)
                    self._write(session, f"{sku}-b")

    def _write(self, session: Session, sku: str) -> None:
        session.add(Order(sku=sku))
        session.flush()
        self.events.enqueue_event(sku, self._queue)


@contextmanager
def open_order_shop(
    url: str, broker: str, queue: str, relay: str = "own"
) -> Iterator[OrderShop]:
    """A shop in this process."""
    shop = OrderShop(url, broker, queue, relay)
    try:
        yield shop
    finally:
        shop.events.close(0)
        shop.engine.dispose()


def main(url: str, broker: str, queue: str, label: str, relay: str = "own") -> None:
    """Place orders in two threads, as a web server would, until the process ends."""
    shop = OrderShop(url, broker, queue, relay)
    threading.Thread(target=shop.work, args=[f"{label}x"], daemon=True).start()
    shop.work(label)


if __name__ == "__main__":
    main(*sys.argv[1:])
