"""Ways to publish batches of events to RabbitMQ, each confirmed."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
from flask import Flask
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Producer

from flask_eventcollector import EventCollector

from .floor import Floor
from .frames import PAYLOAD, BareConnection, Template
from .results import Unavailable

#: Of Node: the peer, and the client that it needs.
_PACKAGES = ("amqp-connection-manager", "amqplib")
PERSISTENT = pika.BasicProperties(delivery_mode=2)
#: The most unconfirmed messages of those that pipeline by themselves.
WINDOW = 2000
#: Gets an event before the clock starts, so that the connection is open.
WARM_UP = "benchmark.warm-up"

#: Publishes one batch with this number of events.
Publish = Callable[[int], None]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Session:
    """An open publisher."""

    #: Called in each thread, before the clock starts.
    sender: Callable[[], Publish]
    #: Returns when the broker has confirmed everything.
    finish: Callable[[], None] = _nothing


#: Takes a URL and a queue.
Contestant = Callable[[str, str], AbstractContextManager[Session]]
#: Takes a URL, a queue and a number of events; returns how many seconds it took.
Pipeline = Callable[[str, str, int], float]


# This library


def ours(**settings: Any) -> Contestant:
    """One connection for all threads, with these settings."""

    @contextmanager
    def opened(url: str, queue: str) -> Iterator[Session]:
        with tempfile.TemporaryDirectory() as folder:
            # A collector does not keep its app alive.
            app = _app(url, folder, settings)
            collector = EventCollector(app)
            _warm_up(collector)

            def publish(events: int) -> None:
                for _ in range(events):
                    collector.enqueue_event(PAYLOAD, queue)
                collector.publish()

            def finish() -> None:
                if not collector.flush(60):
                    raise RuntimeError(f"not all is confirmed: {collector.stats()}")

            yield Session(lambda: publish, finish)
            collector.close(10)

    return opened


def _app(url: str, folder: str, settings: dict[str, Any]) -> Flask:
    app = Flask("benchmark")
    defaults = {
        "BROKER_URL": url,
        "QUEUES": {WARM_UP: {}},
        "SPOOL_DIR": f"{folder}/spool",
    }
    app.config.update(
        {f"EVENTCOLLECTOR_{key}": value for key, value in (defaults | settings).items()}
    )
    return app


def _warm_up(collector: EventCollector) -> None:
    collector.enqueue_event(PAYLOAD, WARM_UP)
    if not collector.publish(timeout=10).confirmed:
        raise RuntimeError("no connection to the broker")


# What Python can do


@contextmanager
def bare_sockets(url: str, queue: str) -> Iterator[Session]:
    """One socket for each thread: write the batch, wait for its confirms."""
    opened: list[BareConnection] = []
    template = Template(queue)

    def sender() -> Publish:
        connection = BareConnection(url)
        opened.append(connection)

        def publish(events: int) -> None:
            frames = [template.encode_payload() for _ in range(events)]
            connection.write(b"".join(frames), events)
            while connection.unconfirmed:
                connection.read_confirms()

        return publish

    yield Session(sender)
    for connection in opened:
        connection.close()


def floor(waiting: bool) -> Contestant:
    """Encoded in the callers' threads; one I/O thread writes and counts confirms."""

    @contextmanager
    def opened(url: str, queue: str) -> Iterator[Session]:
        io, template = Floor(url), Template(queue)

        def publish(events: int) -> None:
            frames = [template.encode_payload() for _ in range(events)]
            confirmed = io.hand_over(b"".join(frames), events)
            if waiting:
                confirmed.wait()

        def finish() -> None:
            # Confirms are counted in order, so an empty batch is the last one.
            io.hand_over(b"", 0).wait()

        yield Session(lambda: publish, finish)
        io.close()

    return opened


def limit(url: str, queue: str, events: int) -> float:
    """A bare socket, frames encoded beforehand."""
    connection = BareConnection(url)
    one, chunk = Template(queue).encode_payload(), 500
    began = time.perf_counter()
    while connection.sent < events or connection.unconfirmed:
        while connection.sent < events and connection.unconfirmed < WINDOW:
            messages = min(chunk, events - connection.sent)
            connection.write(one * messages, messages)
        connection.read_confirms()
    seconds = time.perf_counter() - began
    connection.close()
    return seconds


# Peers that wait for each confirm


@contextmanager
def blocking_connections(url: str, queue: str) -> Iterator[Session]:
    """pika's BlockingConnection, one for each thread, each event confirmed."""
    opened: list[pika.BlockingConnection] = []

    def sender() -> Publish:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        opened.append(connection)
        channel = connection.channel()
        channel.confirm_delivery()

        def publish(events: int) -> None:
            for _ in range(events):
                body = json.dumps(PAYLOAD).encode()
                channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)

        return publish

    yield Session(sender)
    for connection in opened:
        connection.close()


@contextmanager
def kombu(url: str, queue: str) -> Iterator[Session]:
    """kombu, one connection for each thread, each event confirmed."""
    opened: list[Connection] = []

    def sender() -> Publish:
        connection = Connection(url, transport_options={"confirm_publish": True})
        opened.append(connection)
        producer = Producer(connection.channel())
        target = Queue(queue, durable=True)

        def publish(events: int) -> None:
            for _ in range(events):
                producer.publish(PAYLOAD, routing_key=target.name, mandatory=True)

        return publish

    yield Session(sender)
    for connection in opened:
        connection.close()


# Peers that pipeline


def aio_pika(url: str, queue: str, events: int) -> float:
    """aio-pika, batches of 500 gathered.

    :raises Unavailable: it is not installed.
    """
    library = _library("aio_pika")

    async def publish_all() -> float:
        connection = await library.connect(url)
        channel = await connection.channel(publisher_confirms=True)

        def publish() -> Any:
            message = library.Message(json.dumps(PAYLOAD).encode(), delivery_mode=2)
            return channel.default_exchange.publish(message, queue)

        began = time.perf_counter()
        for first in range(0, events, 500):
            batch = range(first, min(first + 500, events))
            await asyncio.gather(*(publish() for _ in batch))
        seconds = time.perf_counter() - began
        await connection.close()
        return seconds

    return asyncio.run(publish_all())


class SelectPipeline:
    """pika's SelectConnection, pipelined by hand."""

    def __init__(self, url: str, queue: str, events: int) -> None:
        self._queue, self._events = queue, events
        self._sent = self._confirmed = 0
        self._unconfirmed: set[int] = set()
        self._channel: Any = None
        self._began = self.seconds = 0.0
        self._connection = pika.SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda _: self._connection.channel(
                on_open_callback=self._opened
            ),
            on_close_callback=lambda *_: self._connection.ioloop.stop(),
        )
        self._connection.ioloop.start()
        self._connection.ioloop.close()

    def _opened(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._confirm, callback=lambda _: self._start())

    def _start(self) -> None:
        self._began = time.perf_counter()
        self._publish()

    def _publish(self) -> None:
        while self._sent < self._events and len(self._unconfirmed) < WINDOW:
            body = json.dumps(PAYLOAD).encode()
            self._channel.basic_publish("", self._queue, body, PERSISTENT, True)
            self._sent += 1
            self._unconfirmed.add(self._sent)

    def _confirm(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            self._unconfirmed = {later for later in self._unconfirmed if later > tag}
        else:
            self._unconfirmed.discard(tag)
        # Each publish writes at once, so a few confirms are awaited together.
        if len(self._unconfirmed) <= WINDOW // 2:
            self._publish()
        if not self._unconfirmed:
            self.seconds = time.perf_counter() - self._began
            self._connection.close()


def select_connection(url: str, queue: str, events: int) -> float:
    """pika's SelectConnection, pipelined by hand."""
    return SelectPipeline(url, queue, events).seconds


def amqp_connection_manager(url: str, queue: str, events: int) -> float:
    """amqp-connection-manager, on Node.

    :raises Unavailable: there is no Node, or its package can't be installed.
    """
    script = Path(__file__).with_name("amqp_connection_manager.js")
    command = [_program("node"), str(script), url, queue, str(events), str(WINDOW)]
    environment = os.environ | {"NODE_PATH": str(node_modules())}
    output = subprocess.check_output(command, env=environment, text=True, timeout=120)
    return float(output)


def node_modules() -> Path:
    """The folder with Node's packages; the first call installs them.

    :raises Unavailable: that is not possible.
    """
    modules = cached_modules()
    if not (modules / _PACKAGES[0]).exists():
        folder = modules.parent
        folder.mkdir(parents=True, exist_ok=True)
        install = ["install", "--no-audit", "--no-fund", "--prefix", str(folder)]
        command = [_program("npm"), *install, *_PACKAGES]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        except subprocess.SubprocessError as error:
            raise Unavailable(f"npm can't install {_PACKAGES[0]}: {error}") from error
    return modules


def cached_modules() -> Path:
    """The folder with Node's packages, if they are installed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "flask-eventcollector" / "benchmarks" / "node_modules"


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"{name} is not installed") from error
