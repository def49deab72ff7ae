"""Measure the cost of retaining a batch while the broker is unreachable.

    python -m benchmarks.keep_events
    python -m benchmarks.keep_events --drain 1000000 --json

Each contestant retains the same batches of five events, one after the other. The
handwritten alternative is an outbox: a table, with one commit per batch. This also
measures how fast a dead process's file is adopted and delivered, to the broker inside
the process. Compare only figures of the same run.
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flask_eventcollector import EventCollector
from flask_eventcollector.config.broker_url import MEMORY
from flask_eventcollector.delivery.entries import Entry
from flask_eventcollector.messages.encoding import EventEncoder
from flask_eventcollector.stores.spool.destination import Destination
from flask_eventcollector.stores.spool.folder import Folder
from flask_eventcollector.stores.spool.journal import Journal
from flask_eventcollector.stores.spool.rows import row_of

EVENTS = 5
PAYLOAD = {"order_id": 7, "padding": "x" * 200}
#: Without a listener, which the library notices at once.
UNREACHABLE = "amqp://localhost:1/"
NAME = "benchmark"

Keep = Callable[[], object]


def main() -> None:
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs = _costs(Path(folder), options.batches)
    with tempfile.TemporaryDirectory() as folder:
        drained = _drain(Path(folder), options.drain)
    if options.json:
        print(json.dumps({"seconds_per_batch": costs, "drain": drained}, indent=2))
    else:
        _show(costs, drained)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--batches", type=int, default=2000)
    options.add_argument("--drain", type=int, default=100_000, metavar="EVENTS")
    options.add_argument("--json", action="store_true")
    return options


# Retaining


def _costs(folder: Path, batches: int) -> dict[str, float]:
    contestants = {
        "memory": _library(BACKLOG="memory"),
        "spool, normal": _library(BACKLOG="spool", SPOOL_DIR=str(folder / "normal")),
        "spool, full": _library(
            BACKLOG="spool", SPOOL_DIR=str(folder / "full"), SPOOL_SYNC="full"
        ),
        "an SQLite table, WAL, normal": _own_table(folder / "own-normal", "NORMAL"),
        "an SQLite table, WAL, full": _own_table(folder / "own-full", "FULL"),
    }
    return {
        name: _median(begin, batches)
        for name, begin in track(
            contestants.items(), "retaining", console=Console(stderr=True)
        )
    }


def _median(begin: Any, batches: int) -> float:
    """The median time of a batch, in seconds."""
    seconds = []
    with begin as keep:
        keep()
        time.sleep(0.5)
        for _ in range(batches):
            began = time.perf_counter()
            keep()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@contextmanager
def _library(**settings: Any) -> Iterator[Keep]:
    app, events = _app(BROKER_URL=UNREACHABLE, SHUTDOWN_TIMEOUT=0, **settings)

    def keep() -> None:
        with events.auto_publish():
            for _ in range(EVENTS):
                events.enqueue_event(PAYLOAD, "orders.created")

    with app.app_context():
        yield keep
        events.close(0)


@contextmanager
def _own_table(path: Path, sync: str) -> Iterator[Keep]:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {sync}")
    connection.execute("CREATE TABLE outbox (id INTEGER PRIMARY KEY, queue, body)")

    def keep() -> None:
        with connection:
            connection.executemany(
                "INSERT INTO outbox (queue, body) VALUES (?, ?)",
                [("orders.created", json.dumps(PAYLOAD)) for _ in range(EVENTS)],
            )

    yield keep
    connection.close()


def _app(**settings: Any) -> tuple[Flask, EventCollector]:
    app = Flask(NAME)
    app.config.update({f"EVENTCOLLECTOR_{k}": v for k, v in settings.items()})
    return app, EventCollector(app)


# Draining


def _drain(folder: Path, events: int) -> dict[str, Any]:
    _leave(folder, events)
    app, collector = _app(
        BROKER_URL="memory://", BACKLOG="spool", SPOOL_DIR=str(folder)
    )
    folder.chmod(0o700)
    tenths: list[float] = []
    with app.app_context():
        collector.enqueue_event(PAYLOAD, "first")
        collector.publish()
        reached, since = 0, time.perf_counter()
        while len(tenths) < 10:
            time.sleep(0.005)
            confirmed = collector.stats().confirmed
            if confirmed >= (len(tenths) + 1) * events // 10:
                now = time.perf_counter()
                tenths.append((confirmed - reached) / (now - since))
                reached, since = confirmed, now
        collector.close(10)
    return {
        "events": events,
        "events_per_second": [round(rate) for rate in tenths],
        # The first tenth includes the check of the whole file.
        "last_to_second_tenth": tenths[-1] / tenths[1],
        "most_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _leave(folder: Path, events: int) -> None:
    """A file with *events* events, as left by a killed process."""
    destination = Destination.of([MEMORY])
    claim = Folder(folder, NAME, destination).claim_new()
    journal = Journal.create(claim.path, str(destination))
    steps = range(0, events, 5000)
    for first in track(steps, "writing", console=Console(stderr=True)):
        numbers = range(first, min(first + 5000, events))
        journal.write([row_of(_entry(number), number + 1) for number in numbers])
    journal.close()
    claim.release()


def _entry(number: int) -> Entry:
    encoder = EventEncoder(max_event_bytes=1 << 20)
    payload = {**PAYLOAD, "order_id": number}
    return Entry(encoder.encode(payload, f"queue-{number % 3}"))


def _show(costs: dict[str, float], drained: dict[str, Any]) -> None:
    table = Table(title=f"Retaining {EVENTS} events, broker unreachable")
    table.add_column("where")
    table.add_column("ms", justify="right")
    table.add_column("ratio to memory", justify="right")
    for name, seconds in costs.items():
        ratio = seconds / costs["memory"]
        table.add_row(name, f"{1000 * seconds:.2f}", f"{ratio:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"Draining {drained['events']:,} events of a dead process, in events per second"
        f" for each tenth: {drained['events_per_second']}. Peak memory:"
        f" {drained['most_memory_bytes'] / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
