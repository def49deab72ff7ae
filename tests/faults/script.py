"""A script that does some units of work, then ends in the requested way.

python -m tests.faults.script ORDERS EVENTS end|exit|wait|handle
"""

from __future__ import annotations

import os
import signal
import sys

from flask import Flask

from flask_eventcollector import EventCollector
from tests.faults.app import create, work


def main(
    app: Flask, events: EventCollector, orders: int, events_each: int, end: str
) -> None:
    if end == "handle":
        signal.signal(signal.SIGTERM, lambda *about: sys.exit())
    with app.app_context():
        for order in range(1, orders + 1):
            work(events, order, events_each)
    if end == "exit":
        os._exit(0)
    if end in ("wait", "handle"):
        signal.pause()


if __name__ == "__main__":
    # The app outlives main(), so that its signals are sent at the end.
    app, events = create()
    main(app, events, int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
