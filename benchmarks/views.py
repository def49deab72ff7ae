"""The app that gunicorn serves: one view, which publishes events in one way."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pika
from flask import Flask

from flask_eventcollector import EventCollector

from .contestants import PERSISTENT
from .floor import SharedSocket
from .frames import PAYLOAD, Template

_PREFIX = "BENCHMARK_"
#: How long the floor waits for confirms, as the library's default, in seconds.
_CONFIRM_TIMEOUT = 0.25


class Task(NamedTuple):
    """What the app is to do; passed to it by environment variables."""

    view: str
    url: str
    queue: str
    events: int
    spool: str

    def as_environment(self) -> dict[str, str]:
        values = self._asdict().items()
        return {f"{_PREFIX}{name.upper()}": str(value) for name, value in values}

    @classmethod
    def from_environment(cls) -> Task:
        values = [os.environ[f"{_PREFIX}{name.upper()}"] for name in cls._fields]
        view, url, queue, events, spool = values
        return cls(view, url, queue, int(events), spool)


Work = Callable[[], object]


def create_app() -> Flask:
    task = Task.from_environment()
    app = Flask(__name__)
    work = VIEWS[task.view](task, app)

    @app.get("/up")
    def is_up() -> str:
        return "yes"

    @app.get("/")
    def view() -> str:
        work()
        return "done"

    return app


def _no_events(task: Task, _app: Flask) -> Work:
    """Only encodes them."""

    def work() -> None:
        for _ in range(task.events):
            json.dumps(PAYLOAD)

    return work


def _ours(**settings: Any) -> Callable[[Task, Flask], Work]:
    def made(task: Task, app: Flask) -> Work:
        # Enough for all events of an outage.
        limits = {"MAX_EVENTS": 2_000_000, "MAX_BYTES": 4 << 30}
        chosen = {"BROKER_URL": task.url, "SPOOL_DIR": task.spool, **limits, **settings}
        app.config.update({f"EVENTCOLLECTOR_{k}": v for k, v in chosen.items()})
        collector = EventCollector(app)

        def work() -> None:
            for _ in range(task.events):
                collector.enqueue_event(PAYLOAD, task.queue)

        return work

    return made


def _blocking_per_thread(task: Task, _app: Flask) -> Work:
    here = threading.local()

    def work() -> None:
        if not hasattr(here, "channel"):
            connection = pika.BlockingConnection(pika.URLParameters(task.url))
            here.channel = connection.channel()
            here.channel.confirm_delivery()
        _publish_each(here.channel, task)

    return work


def _connection_per_request(task: Task, _app: Flask) -> Work:
    def work() -> None:
        with pika.BlockingConnection(pika.URLParameters(task.url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            _publish_each(channel, task)

    return work


def _publish_each(channel: Any, task: Task) -> None:
    for _ in range(task.events):
        body = json.dumps(PAYLOAD).encode()
        channel.basic_publish("", task.queue, body, PERSISTENT, mandatory=True)


def _floor(waiting: bool) -> Callable[[Task, Flask], Work]:
    """Frames encoded beforehand, one socket for all threads."""

    def made(task: Task, _app: Flask) -> Work:
        frames = Template(task.queue).encode_payload() * task.events
        socket = SharedSocket(task.url)

        def work() -> None:
            confirmed = socket.publish(frames, task.events)
            if waiting:
                confirmed.wait(_CONFIRM_TIMEOUT)

        return work

    return made


NO_EVENTS = "no events"
OURS, OURS_LATER = "ours", "ours, not waiting"
SPOOL, SPOOL_LATER = "ours, spool", "ours, spool, not waiting"
METRICS, METRICS_LATER = "ours, metrics", "ours, not waiting, metrics"
BLOCKING = "BlockingConnection per thread"
CONNECTING = "connection per request"
FLOOR, FLOOR_LATER = "floor", "floor, not waiting"

VIEWS: dict[str, Callable[[Task, Flask], Work]] = {
    NO_EVENTS: _no_events,
    OURS: _ours(),
    OURS_LATER: _ours(CONFIRM_TIMEOUT=0),
    SPOOL: _ours(BACKLOG="spool"),
    SPOOL_LATER: _ours(BACKLOG="spool", CONFIRM_TIMEOUT=0),
    METRICS: _ours(METRICS="prometheus"),
    METRICS_LATER: _ours(METRICS="prometheus", CONFIRM_TIMEOUT=0),
    BLOCKING: _blocking_per_thread,
    CONNECTING: _connection_per_request,
    FLOOR: _floor(waiting=True),
    FLOOR_LATER: _floor(waiting=False),
}
