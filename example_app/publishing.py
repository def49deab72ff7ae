"""The shop's event collector, with its queues and its database's transactions."""

from __future__ import annotations

from typing import Any

from flask_eventcollector import EventCollector

from .models import db, inbox_table, outbox_table

events = EventCollector()

ORDERS_CREATED = "orders.created"
INVOICES_REQUESTED = "invoices.requested"
MAIL_SEND = "mail.send"
STOCK_COUNTED = "stock.counted"
STOCK_REPLENISHED = "stock.replenished"

#: Durable queues to declare on every connect, with their arguments.
QUEUES: dict[str, dict[str, Any]] = {
    ORDERS_CREATED: {},
    INVOICES_REQUESTED: {},
    MAIL_SEND: {},
    STOCK_COUNTED: {},
    STOCK_REPLENISHED: {},
}


def bind_session(*, outbox: bool) -> None:
    """Let the transactions of the database decide about the events of the shop.

    :param outbox: whether they also write the events, as rows beside their own.
    """
    events.bind_session(
        db.session, inbox=inbox_table, outbox=outbox_table if outbox else None
    )
