"""Places orders, whose events are published only if the request succeeds."""

from __future__ import annotations

from contextlib import suppress

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from werkzeug.exceptions import Conflict

from .answers import answer, show_error
from .models import Order, Product, db
from .publishing import MAIL_SEND, ORDERS_CREATED, events

bp = Blueprint("orders", __name__, url_prefix="/orders")

GIFT_CARDS = 499


#: More than there will ever be in stock.
TOO_MANY = 1_000_000


class PaymentFailed(Exception):
    """The payment service declined the payment."""


class TooLate(Exception):
    """Something failed after the commit."""


@bp.post("")
def create() -> ResponseReturnValue:
    """Place an order; the database rejects it if the stock is insufficient."""
    order = place_order(_selected_product(), _selected_quantity())
    db.session.commit()
    return answer(f"Order {order.id} was placed.", 201)


@bp.post("/half-way")
def create_half_way() -> ResponseReturnValue:
    """Fail after the event was enqueued, like a bug or an outage."""
    place_order(_selected_product(), quantity=1)
    raise PaymentFailed


@bp.post("/commit-then-fail")
def create_then_fail() -> ResponseReturnValue:
    """Fail after the commit: the order is there to stay, but is its event?"""
    place_order(_selected_product(), quantity=1)
    db.session.commit()
    raise TooLate


@bp.post("/savepoint")
def create_in_savepoint() -> ResponseReturnValue:
    """Place an order, and another one in a savepoint, which the database rejects."""
    order = place_order(_selected_product(), quantity=1)
    with suppress(IntegrityError), db.session.begin_nested():
        place_order(order.product, TOO_MANY)
    db.session.commit()
    return answer(f"Order {order.id} was placed, without the second one.", 201)


@bp.post("/gift-cards")
def create_gift_cards() -> ResponseReturnValue:
    """Place an order with 500 events: one for the order, and one for each card."""
    gift_card = db.one_or_404(select(Product).filter_by(name="Gift card"))
    order = place_order(gift_card, GIFT_CARDS)
    for number in range(1, GIFT_CARDS + 1):
        mail = {"template": "gift-card", "order_id": order.id, "card": number}
        events.enqueue_event(mail, MAIL_SEND)
    db.session.commit()
    return answer(f"Order {order.id} was placed, with {GIFT_CARDS} gift cards.", 201)


@bp.errorhandler(IntegrityError)
def refused_by_database(error: IntegrityError) -> ResponseReturnValue:
    """Roll back, which discards the events of the transaction, and answer 409."""
    db.session.rollback()
    return show_error(
        Conflict("The database rejected the order: there is not enough in stock.")
    )


def place_order(product: Product, quantity: int) -> Order:
    """Add an order, which the caller commits.

    The event is enqueued before the database accepts the order. If the database
    rejects the order, the transaction is rolled back and the event is never sent.
    """
    order = Order(product=product, quantity=quantity)
    db.session.add(order)
    db.session.flush()  # assigns the order's id
    events.enqueue_event(order.as_payload(), ORDERS_CREATED)
    product.change_stock(-quantity)
    return order


def _selected_product() -> Product:
    product_id = request.form.get("product", type=int)
    return db.get_or_404(Product, product_id, description="There is no such product.")


def _selected_quantity() -> int:
    quantity = request.form.get("quantity", default=0, type=int)
    if not 1 <= quantity <= TOO_MANY:
        abort(400, f"The quantity must be a number from 1 to {TOO_MANY}.")
    return quantity
