"""Serves the page with its live data."""

from __future__ import annotations

from collections import defaultdict
from datetime import timezone
from typing import Any

from flask import Blueprint, current_app, jsonify, render_template
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from .broker import STATES, broker_name, embedded_broker
from .event_log import current_event_log
from .models import Order, Product, all_products, db, outbox_table
from .publishing import events

bp = Blueprint("page", __name__)

#: What each kind of backlog guarantees, in plain words.
PROMISES = {
    "memory": "Unconfirmed events wait in the memory of this process."
    " kill -9 loses them.",
    "spool": "By the time a response is sent, each of its events is confirmed by the"
    " broker or on disk. After kill -9, the next process sends the rest.",
}


@bp.get("/")
def index() -> ResponseReturnValue:
    """Show the shop."""
    return render_template(
        "index.html",
        broker=broker_name(),
        backlog=_backlog(),
        has_outbox=_has_outbox(),
        embedded=embedded_broker() is not None,
        products=all_products(),
    )


@bp.get("/state.json")
def state() -> ResponseReturnValue:
    """Return the live data of the page, without payloads or credentials."""
    outboxed = _outboxed_ids()
    response = jsonify(
        broker=_broker(),
        books=events.stats().as_dict(),
        outbox=_outbox(len(outboxed)),
        events=current_event_log().rows(limit=50, outbox=outboxed),
        dead=_dead(),
        products=[_product(product) for product in all_products()],
        orders=_orders(limit=8),
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def _broker() -> dict[str, Any]:
    stats = events.stats()
    return {
        "name": broker_name(),
        "state": stats.broker,
        "meaning": STATES[stats.broker],
        "error": stats.broker_error,
    }


def _backlog() -> dict[str, str]:
    kind = current_app.config["EVENTCOLLECTOR_BACKLOG"]
    return {"kind": kind, "promise": PROMISES[kind]}


def _has_outbox() -> bool:
    return bool(current_app.config["SHOP_OUTBOX"])


def _outboxed_ids() -> set[str]:
    """Return the ids of the events in the outbox: its rows, of all processes."""
    return set(db.session.scalars(select(outbox_table.c.event_id)))


def _outbox(rows: int) -> dict[str, Any] | None:
    """Return what the outbox holds; ``None``: it is off."""
    if not _has_outbox():
        return None
    last = current_event_log().last_request
    return {"rows": rows, "last_request": last and last._asdict()}


def _dead() -> list[dict[str, Any]]:
    """Return the dead events, grouped by queue and reason."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for dead in events.dead():
        groups[dead.event.target_queue, dead.reason].append(dead.attempts)
    return [
        {"queue": queue, "reason": reason, "count": len(tries), "attempts": max(tries)}
        for (queue, reason), tries in groups.items()
    ]


def _product(product: Product) -> dict[str, Any]:
    return {"id": product.id, "name": product.name, "stock": product.stock}


def _orders(limit: int) -> list[dict[str, Any]]:
    newest = select(Order).order_by(Order.id.desc()).limit(limit)
    return [_order(order) for order in db.session.scalars(newest)]


def _order(order: Order) -> dict[str, Any]:
    return {
        "id": order.id,
        "product": order.product.name,
        "quantity": order.quantity,
        "total": f"{order.total:,.2f}",
        # SQLite stores no time zone; the shop writes UTC.
        "placed_at": order.placed_at.replace(tzinfo=timezone.utc).isoformat(),
    }
