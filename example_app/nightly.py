"""A script that publishes a stock report.

Run it with ``python -m example_app.nightly``. It exits with 0 only if the broker
confirmed the report.
"""

from __future__ import annotations

import sys

from flask import Flask

from . import create_app
from .models import all_products
from .publishing import STOCK_COUNTED, events


def count_stock(app: Flask, timeout: float = 30) -> bool:
    """Publish the stock; returns whether the broker confirmed it."""
    with app.app_context():
        stock = {product.name: product.stock for product in all_products()}
        events.enqueue_event({"stock": stock}, STOCK_COUNTED)
        result = events.publish(timeout=timeout)
        if not result.complete:
            stats = events.stats()
            print(f"Not confirmed: {stats.broker_error}", file=sys.stderr)
    return result.complete


def main() -> int:
    """Run the script; returns its exit code."""
    if not count_stock(create_app()):
        return 1
    print("The stock was counted, and the broker confirmed the report.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
