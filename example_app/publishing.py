"""The shop's event collector, with its queues."""

from __future__ import annotations

from typing import Any

from flask_eventcollector import EventCollector

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
