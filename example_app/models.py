"""The shop's database models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import CheckConstraint, ForeignKey, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.schema import CreateIndex, CreateTable

from flask_eventcollector import make_inbox_table, make_outbox_table


class Base(DeclarativeBase):
    """The base of the shop's models."""


db = SQLAlchemy(model_class=Base)

if TYPE_CHECKING:
    # Flask-SQLAlchemy creates this class at run time, invisible to type checkers.
    Model = Base
else:
    Model = db.Model

#: The events of committed transactions, until the broker has confirmed them.
outbox_table = make_outbox_table(db.metadata)
#: The messages that the worker has handled.
inbox_table = make_inbox_table(db.metadata)


class Product(Model):
    """A product that the shop sells."""

    __tablename__ = "product"
    __table_args__ = (CheckConstraint("stock >= 0", name="stock_is_not_negative"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    cents: Mapped[int]
    #: How many are in stock; ``None``: made to order.
    stock: Mapped[int | None]

    @property
    def price(self) -> Decimal:
        """The unit price in euros."""
        return Decimal(self.cents).scaleb(-2)

    def change_stock(self, by: int) -> None:
        """Change the stock; the database rejects a negative result."""
        db.session.execute(
            update(Product)
            .where(Product.id == self.id)
            .values(stock=Product.stock + by)
        )


class Order(Model):
    """An order for one product."""

    __tablename__ = "order"

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"))
    product: Mapped[Product] = relationship()
    quantity: Mapped[int]
    placed_at: Mapped[datetime] = mapped_column(
        default=lambda: datetime.now(timezone.utc)
    )

    @property
    def total(self) -> Decimal:
        """The total price in euros."""
        return self.product.price * self.quantity

    def as_payload(self) -> dict[str, Any]:
        """The payload of the order's event."""
        return {
            "order_id": self.id,
            "product": self.product.name,
            "quantity": self.quantity,
            "total": self.total,
            "placed_at": self.placed_at,
        }


class Invoice(Model):
    """An invoice that was requested for an order."""

    __tablename__ = "invoice"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]
    #: In euros, as the order's event has it.
    total: Mapped[str]


CATALOGUE = [
    {"name": "Coffee mug", "cents": 950, "stock": 40},
    {"name": "Notebook", "cents": 480, "stock": 120},
    {"name": "Desk lamp", "cents": 3900, "stock": 15},
    {"name": "Gift card", "cents": 2500, "stock": None},
]


def all_products() -> Sequence[Product]:
    """Return all products, by id."""
    return db.session.scalars(select(Product).order_by(Product.id)).all()


def init_db() -> None:
    """Create the tables and the catalogue unless they exist.

    The shop and its worker may start at the same time, so each statement tolerates
    that the other process was first.
    """
    for table in db.metadata.sorted_tables:
        db.session.execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            db.session.execute(CreateIndex(index, if_not_exists=True))
    db.session.execute(insert(Product).values(CATALOGUE).on_conflict_do_nothing())
    db.session.commit()
