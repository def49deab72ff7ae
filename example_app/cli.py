"""Commands, which publish events outside of requests."""

from __future__ import annotations

from typing import Any

import click
from flask import Flask
from flask.cli import AppGroup
from sqlalchemy import select

from .models import Order, Product, all_products, db
from .publishing import MAIL_SEND, STOCK_REPLENISHED, events

shop = AppGroup("shop", help="Look after the shop.")

#: Seconds that a command waits for the broker before it gives up.
ARRIVAL_TIMEOUT = 10.0


def init_app(app: Flask) -> None:
    """Register the commands, and names for ``flask shell``."""
    app.cli.add_command(shop)
    app.shell_context_processor(shell_names)


def shell_names() -> dict[str, Any]:
    """Return the names that ``flask shell`` predefines."""
    return {"events": events, "db": db, "Order": Order, "Product": Product}


@shop.command("restock")
@click.option(
    "--quantity", default=50, show_default=True, help="How many of each product."
)
def restock(quantity: int) -> None:
    """Restock all products, and publish the events in one batch."""
    with events.auto_publish():
        for product in all_products():
            if product.stock is not None:
                product.change_stock(quantity)
                events.enqueue_event(
                    {"product": product.name, "added": quantity}, STOCK_REPLENISHED
                )
        db.session.commit()
    _report_and_exit()


@shop.command("recall")
@click.argument("product")
def recall(product: str) -> None:
    """Send a mail to everybody who bought PRODUCT."""
    number = write_to_buyers(product)
    click.echo(f"{number} {'mail' if number == 1 else 'mails'} to send.")
    _report_and_exit()


@events.auto_publish()
def write_to_buyers(product: str) -> int:
    """Enqueue a mail for each order of a product; returns how many."""
    orders = select(Order).join(Order.product).where(Product.name == product)
    found = db.session.scalars(orders).all()
    for order in found:
        mail = {"template": "recall", "order_id": order.id}
        events.enqueue_event(mail, MAIL_SEND)
    return len(found)


def _report_and_exit() -> None:
    """Wait for events in flight; exit with 1 if they were not delivered."""
    delivered = events.flush(timeout=ARRIVAL_TIMEOUT)
    stats = events.stats()
    click.echo(f"{stats.confirmed} of {stats.enqueued} events confirmed.")
    if not delivered:
        click.echo(f"The broker is {stats.broker}: {stats.broker_error}", err=True)
        raise SystemExit(1)
