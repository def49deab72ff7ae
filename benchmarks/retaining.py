"""A process that retains events, and delivers them when told to.

    python -m benchmarks.retaining URL QUEUE RETAINED STORE FOLDER

It prints a line of JSON when it has them; at a line on its standard input, it delivers
them, and prints another.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from flask import Flask

from flask_eventcollector import EventCollector

from .frames import PAYLOAD

UNIT_OF_WORK = "unit of work, µs"
MEMORY = "memory, bytes/event"
DRAIN = "drain, events/s"
#: In a measured unit of work, and in one of those that fill the backlog.
EVENTS, MANY = 5, 1000
UNITS = 400


def main() -> None:
    url, queue, retained, store, folder = sys.argv[1:]
    app = Flask("benchmark")
    settings = {
        "BROKER_URL": url,
        "MAX_EVENTS": 2_000_000,
        "MAX_BYTES": 4 << 30,
        "BACKLOG": store,
        "SPOOL_DIR": folder,
        "SHUTDOWN_TIMEOUT": 0,
    }
    app.config.update({f"EVENTCOLLECTOR_{k}": v for k, v in settings.items()})
    keeper = _Keeper(EventCollector(app), queue)
    with app.app_context():
        print(json.dumps(keeper.keep(int(retained))), flush=True)
        if sys.stdin.readline():
            print(json.dumps({DRAIN: keeper.drain()}), flush=True)


class _Keeper:
    def __init__(self, events: EventCollector, queue: str) -> None:
        self._events, self._queue = events, queue

    def keep(self, retained: int) -> Mapping[str, float]:
        """Retain so many, then some more; return what that costs."""
        # Until it is known that the broker is unreachable, publishing waits for it.
        self._unit_of_work(EVENTS)
        time.sleep(0.5)
        before = _memory()
        for _ in range(retained // MANY):
            self._unit_of_work(MANY)
        figures = {MEMORY: (_memory() - before) / retained} if retained else {}
        times = [self._time_of_unit() for _ in range(UNITS)]
        return {UNIT_OF_WORK: 1e6 * statistics.median(times), **figures}

    def drain(self) -> float:
        """Return the events per second, from the first confirm to the last."""
        while not (first := self._events.stats().confirmed):
            time.sleep(0.001)
        began = time.perf_counter()
        if not self._events.flush(300):
            raise RuntimeError(f"not all is confirmed: {self._events.stats()}")
        seconds = time.perf_counter() - began
        return (self._events.stats().confirmed - first) / seconds

    def _unit_of_work(self, events: int) -> None:
        with self._events.auto_publish():
            for _ in range(events):
                self._events.enqueue_event(PAYLOAD, self._queue)

    def _time_of_unit(self) -> float:
        began = time.perf_counter()
        self._unit_of_work(EVENTS)
        return time.perf_counter() - began


def total(retained: int) -> int:
    """How many events it has published at the end."""
    return EVENTS + retained // MANY * MANY + UNITS * EVENTS


def _memory() -> int:
    """The resident memory of this process, in bytes; needs Linux."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
