"""The app under test, which notes the key of each event before it enqueues it.

It is configured only by environment variables. Besides the library's own settings:

- ``FLASK_FAULTS_QUEUE``: the target queue, unless a request names a ``queue``;
- ``FLASK_FAULTS_SIDE_FILE``: where each event is noted, see :mod:`.side_file`;
- ``FLASK_FAULTS_PUBLISHER``: ``naive`` or ``naive-outbox`` for one of those;
- ``FLASK_FAULTS_DATABASE``: the URL of a database, if there is one, in which the state
  and the outbox are;
- ``FLASK_FAULTS_STATS``: a folder in which each process that runs its exit handlers
  leaves its last counts, as ``PID.json``;
- ``FLASK_FAULTS_NOTE_CONFIRMED``: ``1`` to note each event that is reported as
  published, see :mod:`.side_file`;
- ``FLASK_FAULTS_PLANTED``: a word for each payload, which must not appear in any log;
- ``FLASK_FAULTS_NOISY``: ``1`` to let finalizers and a log handler enqueue events;
- ``FLASK_FAULTS_BEFORE_FORK``: how many events are published while the app is created.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from flask import Flask, Response, has_request_context, jsonify, request

from tests.faults.side_file import (
    confirmed_in,
    done_in,
    dropped_in,
    note,
    quarantined_in,
)

if TYPE_CHECKING:
    from flask_eventcollector import Event, EventCollector, PublishResult
    from tests.faults.state import State

PREFIX = "FLASK_FAULTS_"

#: Seconds that a forked child may take to have its events confirmed.
CHILD_TIMEOUT = 10.0

#: The prefix of the names of the library's threads.
OWN_THREADS = "eventcollector-"
#: Seconds that each of them may take to end.
THREAD_TIMEOUT = 2.0


def create_app() -> Flask:
    """The app for one process, or for all processes forked from it."""
    app, _ = create()
    return app


def create() -> tuple[Flask, EventCollector]:
    """The app and its event collector."""
    # Exit handlers run last in, first out: these counts are written after the last
    # flush of the library, which registers itself when it is imported.
    at_last: list[Callable[[], None]] = []
    atexit.register(lambda: [write() for write in at_last])
    import flask_eventcollector  # noqa: F401

    app = Flask("faults")
    app.config.from_prefixed_env()
    make_a_name_hang()
    count_waits_in_vain()
    if url := os.environ.get(PREFIX + "DATABASE"):
        events = add_orders_in_transactions(app, url)
    else:
        events = new_collector(app)
        add_orders(app, events)
    at_last.append(lambda: write_books(events))
    add_insights(app, events)
    add_ways_to_end(app)
    if os.environ.get(PREFIX + "NOTE_CONFIRMED"):
        note_confirmed(app)
    note_losses(app)
    if os.environ.get(PREFIX + "NOISY"):
        make_noise(app, events)
    publish_before_the_fork(app, events)
    Path(os.environ[PREFIX + "STATS"], f"{os.getpid()}.up").touch()
    return app, events


def make_a_name_hang() -> None:
    """Make the resolver hang for one name, as with a dead name server."""
    resolve = socket.getaddrinfo

    def resolve_or_hang(host: Any, *about: Any, **more: Any) -> Any:
        if host == "hangs.invalid":
            threading.Event().wait()
        return resolve(host, *about, **more)

    socket.getaddrinfo = resolve_or_hang


#: When callers of publish() have waited in vain in this process.
waits_in_vain: list[float] = []


def count_waits_in_vain() -> None:
    """Count the callers whose time runs out although nothing of theirs was sent."""
    from flask_eventcollector.delivery.entries import Waiter
    from flask_eventcollector.delivery.ledger import Ledger

    stop_waiting = Ledger.stop_waiting

    def stop(ledger: Ledger, waiter: Waiter, *, ran_out: bool) -> PublishResult:
        if ran_out and all(entry.is_retained for entry in waiter.pending):
            waits_in_vain.append(time.time())
        return stop_waiting(ledger, waiter, ran_out=ran_out)

    Ledger.stop_waiting = stop  # type: ignore[method-assign]


def new_collector(app: Flask) -> EventCollector:
    """The library, or the naive publisher."""
    if os.environ.get(PREFIX + "PUBLISHER") == "naive":
        from tests.faults.naive import NaiveCollector

        return cast("EventCollector", NaiveCollector(app))
    from flask_eventcollector import EventCollector

    return EventCollector(app)


def add_orders_in_transactions(app: Flask, url: str) -> EventCollector:
    """A view that writes its state, and has an outbox for the events about it."""
    from tests.faults.failpoints import Failpoints
    from tests.faults.state import State

    state = State(url)
    failpoints = Failpoints(state)
    events = new_outbox(app, state)

    def enqueue_in(order: int, number: int) -> list[str]:
        keys = enqueue(events, order, number)
        for key in keys:
            state.write(key)
        return keys

    @app.post("/orders/<int:order>")
    def place(order: int) -> tuple[Response, int]:
        failpoints.armed = request.args.get("die", failpoints.armed)
        with state.taken_back():
            enqueue_in(order, 1)
        with state.transaction():
            keys = enqueue_in(order, number_of("events"))
            with state.savepoint_taken_back():
                enqueue_in(order, 1)
        return jsonify(keys), 201

    return events


def new_outbox(app: Flask, state: State) -> EventCollector:
    """The library with an outbox, or the naive one."""
    if os.environ.get(PREFIX + "PUBLISHER") == "naive-outbox":
        from tests.faults.naive_outbox import NaiveOutbox

        return cast("EventCollector", NaiveOutbox(state))
    from flask_eventcollector import EventCollector
    from tests.faults.state import OUTBOX

    events = EventCollector(app)
    events.bind_session(state.sessions, outbox=OUTBOX)
    return events


def add_orders(app: Flask, events: EventCollector) -> None:
    """Views that enqueue events."""

    @app.post("/orders/<int:order>")
    def place(order: int) -> tuple[Response, int]:
        keys = enqueue(events, order, number_of("events"), **wanted())
        return jsonify(keys), 201

    @app.post("/orders/<int:order>/refused")
    def refuse(order: int) -> tuple[str, int]:
        # The key is not noted, so the event must never arrive.
        event = {"key": f"refused-{uuid4().hex}", "order": order, "place": 0}
        events.enqueue_event(event, own_queue(), **wanted())
        return "refused", 409

    @app.post("/interrupted/<int:order>")
    def interrupt(order: int) -> tuple[Response, int]:
        from gevent import Timeout  # type: ignore[import-untyped]

        keys = enqueue(events, order, number_of("events"))
        with Timeout(request.args.get("seconds", 0.0, float), exception=False):
            events.publish(timeout=CHILD_TIMEOUT)
        return jsonify(keys), 201

    @app.post("/forks/<int:order>")
    def fork(order: int) -> tuple[Response, int]:
        children = [
            order_in_child(events, order, number_of("events"))
            for _ in range(number_of("children"))
        ]
        return jsonify(list(chain.from_iterable(children))), 201


def add_insights(app: Flask, events: EventCollector) -> None:
    """Views that enqueue nothing."""

    @app.get("/stats")
    def stats() -> dict[str, Any]:
        return books(events)


def add_ways_to_end(app: Flask) -> None:
    """Views that end their worker."""

    @app.post("/slow")
    def slow() -> str:
        if request.args.get("deaf"):
            signal.signal(signal.SIGABRT, signal.SIG_IGN)
        time.sleep(request.args.get("seconds", 1.0, float))
        return "at last"

    @app.post("/exit")
    def leave() -> str:
        os._exit(0)


def note_confirmed(app: Flask) -> None:
    """Note each event that the library reports as published."""
    from flask_eventcollector import events_published

    path = confirmed_in(os.environ[PREFIX + "SIDE_FILE"])

    def receive(sender: Flask, events: tuple[Event, ...], **extra: Any) -> None:
        for event in events:
            note(path, event.payload["key"], "confirmed")

    events_published.connect(receive, app, weak=False)


def note_losses(app: Flask) -> None:
    """Note events reported as dropped, and files reported as quarantined."""
    from flask_eventcollector import events_dropped, spool_file_quarantined

    side_file = os.environ[PREFIX + "SIDE_FILE"]

    def dropped(sender: Flask, events: tuple[Event, ...], **extra: Any) -> None:
        for event in events:
            note(dropped_in(side_file), event.payload["key"], "dropped")

    def quarantined(sender: Flask, path: Path, **extra: Any) -> None:
        note(quarantined_in(side_file), path.name, "quarantined")

    events_dropped.connect(dropped, app, weak=False)
    spool_file_quarantined.connect(quarantined, app, weak=False)


def make_noise(app: Flask, events: EventCollector) -> None:
    """Make finalizers and a log handler enqueue events at any moment."""

    def enqueue_noise() -> None:
        key = f"noise-{os.getpid()}-{uuid4().hex[:12]}"
        note(os.environ[PREFIX + "SIDE_FILE"], key, "noise")
        events.enqueue_event({"key": key, "order": 0, "place": 0}, own_queue())

    class Noisy:
        def __init__(self) -> None:
            # In a reference cycle, so that only the garbage collector deletes it.
            self.me = self

        def __del__(self) -> None:
            enqueue_noise()

    class NoisyHandler(logging.StreamHandler[Any]):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            enqueue_noise()

    @app.before_request
    def litter() -> None:
        for _ in range(5):
            Noisy()
        gc.set_threshold(random.randrange(1, 60))

    logging.getLogger("flask_eventcollector").addHandler(NoisyHandler())


def publish_before_the_fork(app: Flask, events: EventCollector) -> None:
    """Publish events in the process that the workers are forked from."""
    number = int(os.environ.get(PREFIX + "BEFORE_FORK", "0"))
    if number:
        with app.app_context():
            work(events, 0, number)


def work(events: EventCollector, order: int, number: int) -> None:
    """One unit of work outside of requests; notes its events when it has ended."""
    with events.auto_publish():
        keys = enqueue(events, order, number)
    for key in keys:
        note(done_in(os.environ[PREFIX + "SIDE_FILE"]), key, "done")


def number_of(name: str) -> int:
    """A number from the request."""
    return request.args.get(name, 1, int)


def wanted() -> dict[str, Any]:
    """The exchange that the request names, if any."""
    return {"exchange": request.args["exchange"]} if "exchange" in request.args else {}


def own_queue() -> str:
    """The target queue."""
    queue = request.args.get("queue") if has_request_context() else None
    return queue or os.environ[PREFIX + "QUEUE"]


def enqueue(events: EventCollector, order: int, number: int, **more: Any) -> list[str]:
    """Enqueue the events of one unit of work; returns their keys."""
    name = f"{order}-{os.getpid()}-{uuid4().hex[:12]}"
    keys = [f"{name}.{place}" for place in range(number)]
    for place, key in enumerate(keys):
        note(os.environ[PREFIX + "SIDE_FILE"], key, name)
        event = {"key": key, "order": order, "place": place, **padding(place)}
        event["planted"] = os.environ.get(PREFIX + "PLANTED", "")
        events.enqueue_event(event, own_queue(), **headers(place), **more)
    return keys


def headers(place: int) -> dict[str, Any]:
    """Headers to make those of one event as wide as the request demands."""
    if not has_request_context() or "width" not in request.args:
        return {}
    widened = place == number_of("widened")
    return {"headers": {"wide": "x" * number_of("width")}} if widened else {}


def padding(place: int) -> dict[str, str]:
    """Padding to make one event, or each of them, as large as the request demands."""
    if not has_request_context() or "padding" not in request.args:
        return {}
    padded = request.args.get("padded", place, int)
    return {"padding": "x" * number_of("padding")} if place == padded else {}


def order_in_child(events: EventCollector, order: int, number: int) -> list[str]:
    """Fork a child that places an order, and wait until it has ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException), events.auto_publish():
            answer = json.dumps(enqueue(events, order, number))
        with suppress(BaseException):
            events.flush(CHILD_TIMEOUT)
            os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    keys: list[str] = json.loads(answer_of(child, reader))
    return keys


def answer_of(child: int, reader: int) -> bytes:
    """The output of a child that has ended; a child that hangs is killed."""
    try:
        if not select.select([reader], [], [], 2 * CHILD_TIMEOUT)[0]:
            os.kill(child, signal.SIGKILL)
            raise RuntimeError("a forked child hung")
        return os.read(reader, 65536)
    finally:
        os.close(reader)
        os.waitpid(child, 0)


def books(events: EventCollector) -> dict[str, Any]:
    """The counts of this process."""
    return {
        **events.stats().as_dict(),
        "pid": os.getpid(),
        "waits_in_vain": len(waits_in_vain),
        "threads": sorted(thread.name for thread in threading.enumerate()),
    }


def write_books(events: EventCollector) -> None:
    """Write the last counts of this process."""
    # A busy machine may not have let them end within the timeout of the shutdown.
    for thread in threading.enumerate():
        if thread.name.startswith(OWN_THREADS):
            thread.join(THREAD_TIMEOUT)
    folder = Path(os.environ[PREFIX + "STATS"])
    unfinished = folder / f".{os.getpid()}"
    unfinished.write_text(json.dumps({**books(events), "at": time.time()}))
    unfinished.replace(folder / f"{os.getpid()}.json")
