"""A table of orders, and what a test does with a session and an event."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Enum,
    StaticPool,
    String,
    create_engine,
    event,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.helpers import Shop

ROLLED_BACK = "the transaction was rolled back"
NOT_COMMITTED = "the transaction was not committed"


class Base(DeclarativeBase):
    """The models of these tests."""


class Order(Base):
    """An order, which is what most events here are about."""

    __tablename__ = "orders"
    sku: Mapped[str] = mapped_column(String(20), primary_key=True)
    note: Mapped[str] = mapped_column(String(20), default="")


class Visit(Base):
    """A visit, of which nothing need be set."""

    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    #: What is none of these is refused before a statement is sent.
    kind: Mapped[str] = mapped_column(
        Enum("short", "long", native_enum=False, validate_strings=True), default="short"
    )


ORDERS = Base.metadata.tables["orders"]


class Work:
    """Changes state by a session, and tells of it by events."""

    def __init__(self, shop: Shop, session: Session) -> None:
        self.shop = shop
        self.session = session

    def place(self, sku: str) -> Order:
        """Write an order, and enqueue its event."""
        order = self.write(sku)
        self.tell(sku)
        return order

    def write(self, sku: str) -> Order:
        """Write an order without an event."""
        order = Order(sku=sku)
        self.session.add(order)
        self.session.flush()
        return order

    def tell(self, sku: str) -> None:
        """Enqueue an event."""
        self.shop.enqueue(sku)

    def read(self) -> list[str]:
        """Read all orders, which begins a transaction if there is none."""
        return list(self.session.scalars(select(Order.sku).order_by(Order.sku)))


def new_engine(url: str) -> Engine:
    """An engine with the table, on which SQLite obeys savepoints.

    See "Serializable isolation / Savepoints / Transactional DDL" in SQLAlchemy's page
    on SQLite.
    """
    if not url.startswith("sqlite"):
        engine = create_engine(url)
    else:
        in_memory = {"poolclass": StaticPool} if url == "sqlite://" else {}
        arguments = {"check_same_thread": False}
        engine = create_engine(url, connect_args=arguments, **in_memory)
        obey_savepoints(engine)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    return engine


def obey_savepoints(engine: Engine) -> None:
    """Let SQLAlchemy begin SQLite's transactions, instead of Python's module."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


@contextmanager
def open_engine(url: str) -> Iterator[Engine]:
    """An engine with an empty table, disposed of at the end."""
    engine = new_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def stored(bind: Engine | Connection) -> list[str]:
    """The orders that are in the database."""
    query = select(ORDERS.c.sku).order_by(ORDERS.c.sku)
    if isinstance(bind, Connection):
        return list(bind.scalars(query))
    with bind.connect() as connection:
        return list(connection.scalars(query))


def url_in(folder: Path) -> str:
    """A database in a file."""
    return f"sqlite:///{folder / 'shop.sqlite3'}"
