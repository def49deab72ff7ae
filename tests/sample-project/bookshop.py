"""A user's app: a shop for books."""

from __future__ import annotations

from flask import Blueprint, Flask, abort, request
from flask.typing import ResponseReturnValue

from flask_eventcollector import EventCollector

events = EventCollector()
bp = Blueprint("shop", __name__)

STOCK = {"dune": 2, "emma": 0}


def create_app(**config: object) -> Flask:
    """Return the shop."""
    app = Flask(__name__)
    app.config.from_mapping(config)
    events.init_app(app)
    app.register_blueprint(bp)
    return app


@bp.post("/orders")
def order() -> ResponseReturnValue:
    """Order a book; it may be out of stock, which shows late."""
    book = request.get_json()["book"]
    events.enqueue_event({"book": book, "copies": 1}, "orders.created")
    events.enqueue_event({"to": "ann@example.org"}, "mail.send")
    if not STOCK[book]:
        abort(409)
    return "ordered", 201


def restock(book: str, copies: int) -> None:
    """Note new copies, as a nightly job does."""
    with events.auto_publish():
        events.enqueue_event({"book": book, "copies": copies}, "stock.counted")
