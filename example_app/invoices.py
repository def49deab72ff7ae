"""Requests an order's invoice, in response to the order's event."""

from __future__ import annotations

from typing import Any

from flask_eventcollector import Event

from .publishing import INVOICES_REQUESTED, events


def request_invoice(order: Any, message_id: str) -> Event:
    """Enqueue a request for the invoice of the order in a message.

    :raises ValueError: the message is not about an order.
    """
    try:
        invoice = {"order_id": order["order_id"], "total": order["total"]}
    except (TypeError, KeyError) as error:
        raise ValueError("the message is not about an order") from error
    headers = {"caused-by": message_id}
    return events.enqueue_event(invoice, INVOICES_REQUESTED, headers=headers)
