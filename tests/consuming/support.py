"""An inbox on a database, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from sqlalchemy import Column, Engine, Integer, MetaData, Table, func, select
from sqlalchemy.orm import Session

from flask_eventcollector import EventCollector, make_inbox_table
from flask_eventcollector.consuming.once import Once

metadata = MetaData()
seen = make_inbox_table(metadata)
#: What the consumer's work writes.
bookings = Table("booking", metadata, Column("id", Integer, primary_key=True))


class Consumer:
    """A consumer whose work is a row of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.events = EventCollector()
        self.events.bind_session(self.session, inbox=seen)

    def session(self) -> Session:
        return Session(self.engine)

    def once(self, session: Any, id: str = "7", name: str = "billing") -> Once:
        return self.events.once(session, id, consumer=name)

    def handle(self, session: Session, id: str = "7", name: str = "billing") -> bool:
        """Do the work of a message, unless it is done; whether it was done."""
        with self.once(session, id, name) as first:
            if first:
                session.execute(bookings.insert())
        return first

    def count(self, table: Table = bookings) -> int:
        """How many rows are committed."""
        with self.session() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


@contextmanager
def consumer_on(url: str) -> Iterator[Consumer]:
    """A consumer on a database, which gets the tables if it has none."""
    engine = sqlalchemy.create_engine(url)
    try:
        metadata.create_all(engine)
        yield Consumer(engine)
    finally:
        engine.dispose()
