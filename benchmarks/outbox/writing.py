"""A process that commits orders with events.

    python -m benchmarks.outbox.writing QUEUE EVENTS THREADS IN_TRANSACTION

If it sends them itself, it ends when all are confirmed.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from ..frames import PAYLOAD
from .shop import Shop, from_environment


def main() -> None:
    queue = sys.argv[1]
    events, threads, in_transaction = map(int, sys.argv[2:])
    write(from_environment(), queue, events, threads, in_transaction)


def write(
    shop: Shop, queue: str, events: int, threads: int, in_transaction: int
) -> None:
    """Commit so many events, from several threads; wait until they are confirmed."""
    sizes = [
        min(in_transaction, events - done) for done in range(0, events, in_transaction)
    ]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda size: shop.order(queue, [PAYLOAD] * size), sizes))
    shop.close()


if __name__ == "__main__":
    main()
