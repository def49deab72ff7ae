"""A process that publishes one event, and prints how many seconds that took.

    python -m benchmarks.first_event NAME URL QUEUE

The time begins when everything is imported, and ends with the confirm.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pika
from flask import Flask

from flask_eventcollector import EventCollector

from .frames import BareConnection, Template

#: Called when the time is taken.
Close = Callable[[], object]


def main() -> None:
    name, url, queue = sys.argv[1:]
    began = time.perf_counter()
    close = FIRST[name](url, queue)
    print(time.perf_counter() - began)
    close()


def _ours(url: str, queue: str) -> Close:
    app = Flask("benchmark")
    app.config["EVENTCOLLECTOR_BROKER_URL"] = url
    events = EventCollector(app)
    events.enqueue_event({}, queue)
    if not events.publish(timeout=10).confirmed:
        raise RuntimeError("the event is not confirmed")

    def close() -> None:
        # Keeps the app until then.
        with app.app_context():
            events.close(1)

    return close


def _blocking(url: str, queue: str) -> Close:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"{}", mandatory=True)
    return connection.close


def _bare(url: str, queue: str) -> Close:
    connection = BareConnection(url)
    connection.write(Template(queue).encode_payload({}), 1)
    connection.read_confirms()
    return connection.close


OURS = "Flask-EventCollector"
FIRST: dict[str, Callable[[str, str], Close]] = {
    OURS: _ours,
    "BlockingConnection": _blocking,
    "bare socket": _bare,
}

if __name__ == "__main__":
    main()
