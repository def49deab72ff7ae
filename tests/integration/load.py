"""A shop-like app under load, with a checker of what arrived."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from flask import Flask

from flask_eventcollector import EventCollector, Outcome, Stats, publish_failed
from tests.helpers import DEADLINE
from tests.rabbitmq import Message

EVENTS_PER_REQUEST = 5
#: The most seconds that a request may take while the broker misbehaves:
#: ``CONFIRM_TIMEOUT`` plus half a second.
SLOW = 0.25 + 0.5


def make_app(url: str, queue: str, **settings: Any) -> tuple[Flask, EventCollector]:
    """An app whose every request enqueues five events; some requests fail."""
    app = Flask("load")
    app.config["EVENTCOLLECTOR_BROKER_URL"] = url
    app.config["EVENTCOLLECTOR_QUEUES"] = {queue: {}}
    app.config["EVENTCOLLECTOR_RETRY_MAX_DELAY"] = 2
    for key, value in settings.items():
        app.config[f"EVENTCOLLECTOR_{key}"] = value
    events = EventCollector(app)

    @app.post("/orders/<int:number>")
    def order(number: int) -> tuple[str, int]:
        for place in range(EVENTS_PER_REQUEST):
            events.enqueue_event({"order": number, "place": place}, queue)
        return "placed", 201

    @app.post("/orders/<int:number>/refused")
    def refused(number: int) -> tuple[str, int]:
        events.enqueue_event({"order": number}, queue)
        return "refused", 409

    return app, events


@dataclass
class Load:
    """Sends requests from several threads, and times each."""

    app: Flask
    threads: int = 8
    pause: float = 0.0
    statuses: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def assert_quick(self) -> None:
        """No request was held up; the machine itself may stall a few of them."""
        assert quantiles(self.seconds, n=20)[-1] < SLOW
        assert max(self.seconds) < DEADLINE / 4

    def run(self, paths: Iterable[str]) -> None:
        """Send all requests; returns when the last is answered."""
        with self.running(paths):
            pass

    @contextmanager
    def running(self, paths: Iterable[str]) -> Iterator[None]:
        """Send them during the block, and until the last one is answered."""
        todo = iter(paths)
        taking = threading.Lock()

        def work() -> None:
            client = self.app.test_client()
            while (path := _next(todo, taking)) is not None:
                began = time.perf_counter()
                status = client.post(path).status_code
                self.seconds.append(time.perf_counter() - began)
                self.statuses.append(status)
                time.sleep(self.pause)

        workers = [threading.Thread(target=work) for _ in range(self.threads)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            for worker in workers:
                worker.join(120)
                assert not worker.is_alive()


def _next(todo: Iterator[str], taking: threading.Lock) -> str | None:
    with taking:
        return next(todo, None)


class Duplicates:
    """Counts the events with the outcome *unknown*, which may arrive twice."""

    def __init__(self, app: Flask) -> None:
        self.possible: set[str] = set()
        publish_failed.connect(self._note, app)

    def _note(self, app: Flask, **about: Any) -> None:
        if about["outcome"] is Outcome.UNKNOWN:
            self.possible |= {event.id for event in about["events"]}


def orders(numbers: Iterable[int]) -> list[str]:
    """The paths of successful requests."""
    return [f"/orders/{number}" for number in numbers]


def places_by_order(messages: Iterable[Message]) -> dict[int, list[int]]:
    """The events that arrived for each order, in the order of their first arrival."""
    found: dict[int, list[int]] = defaultdict(list)
    seen: set[str | None] = set()
    for message in messages:
        if message.id not in seen:
            seen.add(message.id)
            body = message.json()
            found[body["order"]].append(body["place"])
    return dict(found)


def complete(numbers: Iterable[int]) -> dict[int, list[int]]:
    """The events that must have arrived."""
    return {number: list(range(EVENTS_PER_REQUEST)) for number in numbers}


def ids(messages: Iterable[Message]) -> list[str | None]:
    """The message ids, including those of second copies."""
    return [message.id for message in messages]


def marked(messages: Iterable[Message]) -> set[str | None]:
    """The ids of the messages marked as possible duplicates."""
    return {
        message.id
        for message in messages
        if (message.properties.headers or {}).get("x-possible-duplicate")
    }


def second_copies(messages: Iterable[Message]) -> Iterator[Message]:
    """Every message whose id has been seen before."""
    seen: set[str | None] = set()
    for message in messages:
        if message.id in seen:
            yield message
        seen.add(message.id)


def wait_for(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Poll until *condition* holds; fails after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.01)


def assert_all_confirmed(stats: Stats, events: int) -> None:
    """Nothing is in flight, retained, dropped or dead, and the books balance."""
    assert stats.balanced
    assert stats.confirmed == events
    left = (stats.collected, stats.in_flight, stats.retained, stats.dead, stats.dropped)
    assert left == (0, 0, 0, 0, 0)


_numbers = itertools.count(1)


def fresh_queue() -> str:
    """A queue name that no other test uses."""
    return f"orders.{time.time_ns()}.{next(_numbers)}"
