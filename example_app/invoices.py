"""Requests an order's invoice, in response to the order's event."""

from __future__ import annotations

from typing import Any, NamedTuple

from .models import Invoice, db
from .publishing import INVOICES_REQUESTED, events


class PlacedOrder(NamedTuple):
    """An order, as far as its invoice depends on it."""

    id: int
    total: str

    @classmethod
    def of(cls, payload: Any) -> PlacedOrder:
        """Read the payload of an order's event.

        :raises ValueError: it is not about an order.
        """
        match payload:
            case {"order_id": int(id), "total": str(total)}:
                return cls(id, total)
        raise ValueError("the message is not about an order")


def request_invoice_once(order: PlacedOrder, message_id: str) -> bool:
    """Request the invoice, unless this message was handled before.

    What is noted about the message, the invoice and its event are one transaction. So
    acknowledge the message when this returns; if it raises, let it be redelivered.

    :returns: whether the message was handled for the first time.
    :raises sqlalchemy.exc.SQLAlchemyError: the database has failed.
    """
    with events.once(db.session, message_id, consumer="invoices") as first:
        if first:
            _request_invoice(order, message_id)
    db.session.commit()
    return first


def _request_invoice(order: PlacedOrder, message_id: str) -> None:
    invoice = Invoice(order_id=order.id, total=order.total)
    db.session.add(invoice)
    db.session.flush()  # assigns the invoice's id
    payload = {"invoice_id": invoice.id, "order_id": order.id, "total": order.total}
    headers = {"caused-by": message_id}
    events.enqueue_event(payload, INVOICES_REQUESTED, headers=headers)
