"""Measure how many confirmed events per second each contestant publishes.

    python -m benchmarks.publish_events
    python -m benchmarks.publish_events --url amqp://guest:guest@localhost/ --json

Without --url, this starts a private RabbitMQ node. Compare only figures of the same
run: the broker and the load share the cores of the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue

import pika
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.contestants import CONTESTANTS, Contestant, Publish
from tests.rabbitmq import RabbitMQNode, find_version

BASELINE = next(iter(CONTESTANTS))
#: The width of the longest bar, so that the table fits into 80 columns.
_BAR = 20


@dataclass(frozen=True)
class Figure:
    """The result of one contestant."""

    name: str
    events: int
    #: Events per second: the median of the rounds.
    rate: float
    #: The ratio to the baseline's rate.
    ratio: float


def main() -> int:
    options = parser().parse_args()
    with _broker(options.url) as url:
        rates = _measure(url, options)
    figures = [
        Figure(name, options.events, rate, rate / rates[BASELINE])
        for name, rate in rates.items()
    ]
    if options.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2))
    else:
        _show(figures, options)
    return 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--url", help="a RabbitMQ to use instead of a private one")
    options.add_argument("--events", type=int, default=10_000, help="in each round")
    options.add_argument("--batch", type=int, default=20, help="events in a batch")
    options.add_argument("--threads", type=int, default=8)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--json", action="store_true", help="write JSON")
    return options


@contextmanager
def _broker(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    node = RabbitMQNode()
    node.start()
    try:
        yield node.url
    finally:
        node.close()


def _measure(url: str, options: argparse.Namespace) -> dict[str, float]:
    """The median rate of each; the rounds take turns, so that noise hits all alike."""
    rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("publishing", total=options.rounds * len(CONTESTANTS))
        for _ in range(options.rounds):
            for name, contestant in CONTESTANTS.items():
                progress.update(task, description=name)
                rates[name].append(_round(contestant, url, options))
                progress.advance(task)
    return {name: statistics.median(found) for name, found in rates.items()}


def _round(contestant: Contestant, url: str, options: argparse.Namespace) -> float:
    with _queue(url, options.events) as queue:
        began = time.perf_counter()
        with contestant(url, queue) as publish:
            _run_threads(publish, options)
        return float(options.events / (time.perf_counter() - began))


def _run_threads(publish: Publish, options: argparse.Namespace) -> None:
    # One work queue for all threads. Each item is the number of events of a batch.
    todo: SimpleQueue[int] = SimpleQueue()
    for done in range(0, options.events, options.batch):
        todo.put(min(options.batch, options.events - done))

    def work() -> None:
        with suppress(Empty):
            while True:
                publish(todo.get_nowait())

    threads = [threading.Thread(target=work) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def _queue(url: str, events: int) -> Iterator[str]:
    """A queue that must have at least *events* events at the end."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    queue = f"benchmark.{time.time_ns()}"
    channel.queue_declare(queue, durable=True)
    connection.close()
    yield queue
    connection = pika.BlockingConnection(pika.URLParameters(url))
    deleted = connection.channel().queue_delete(queue)
    connection.close()
    found = deleted.method.message_count or 0
    if found < events:
        raise RuntimeError(f"only {found} of {events} events have arrived")


def _show(figures: list[Figure], options: argparse.Namespace) -> None:
    version = "" if options.url else f" on RabbitMQ {find_version()}"
    table = Table(
        title=f"{options.events} events of 256 bytes, batches of {options.batch}, "
        f"{options.threads} threads{version}"
    )
    table.add_column("publisher", no_wrap=True)
    table.add_column("events/s", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("")
    most = max(figure.rate for figure in figures)
    for figure in figures:
        bar = "█" * max(1, round(_BAR * figure.rate / most))
        rate, ratio = f"{figure.rate:,.0f}", f"{figure.ratio:.1f} ×"
        table.add_row(figure.name, rate, ratio, bar)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
