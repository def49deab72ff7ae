"""An app whose transactions write an order, and events into the outbox.

``flask --app benchmarks.outbox.shop events relay`` sends them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Flask
from sqlalchemy import String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from flask_eventcollector import EventCollector, make_outbox_table

#: Who sends: the process that commits, or ``flask events relay``.
OWN, EXTERNAL = "own", "external"
#: The name of the app, and so of its rows.
NAME = "benchmark"
#: Python's arguments for a relay.
RELAY = ("-m", "flask", "--app", "benchmarks.outbox.shop", "events", "relay")
_PREFIX = "BENCHMARK_"


class Base(DeclarativeBase):
    """The models of the shop."""


class Order(Base):
    """What a transaction writes anyway."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(String(20))


OUTBOX = make_outbox_table(Base.metadata)


class Shop:
    """The app, with its sessions. Its tables must exist."""

    def __init__(
        self, database: str, broker: str, relay: str, name: str = NAME
    ) -> None:
        self.app = Flask(name)
        settings = {"BROKER_URL": broker, "OUTBOX_RELAY": relay}
        self.app.config.update(
            {f"EVENTCOLLECTOR_{key}": value for key, value in settings.items()}
        )
        self.sessions = sessionmaker(create_engine(database))
        self.events = EventCollector(self.app)
        self.events.bind_session(self.sessions, outbox=OUTBOX)

    def order(self, queue: str, payloads: Iterable[Any]) -> None:
        """Commit an order, with events."""
        with self.sessions() as session:
            session.add(Order(note="x" * 20))
            for payload in payloads:
                self.events.enqueue_event(payload, queue)
            session.commit()

    def close(self) -> None:
        """:raises RuntimeError: not all is confirmed."""
        if not self.events.flush(60):
            raise RuntimeError(f"not all is confirmed: {self.events.stats()}")
        self.events.close(10)


def environment(database: str, broker: str, relay: str) -> Mapping[str, str]:
    """What :func:`from_environment` reads in another process."""
    values = {"DATABASE": database, "BROKER": broker, "RELAY": relay}
    return os.environ | {_PREFIX + key: value for key, value in values.items()}


def from_environment() -> Shop:
    """The shop of this process."""
    names = ("DATABASE", "BROKER", "RELAY")
    return Shop(*(os.environ[_PREFIX + name] for name in names))


def create_app() -> Flask:
    """What Flask's command line calls."""
    return from_environment().app
