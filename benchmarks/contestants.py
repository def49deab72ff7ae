"""Ways to publish batches of events to RabbitMQ, each confirmed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import pika
from flask import Flask
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Producer

from flask_eventcollector import EventCollector

#: 256 bytes as JSON.
PAYLOAD = {"order_id": 7, "note": "x" * 229}
PERSISTENT = pika.BasicProperties(delivery_mode=2)


class Publish(Protocol):
    """Publishes one batch of some events."""

    def __call__(self, events: int) -> None: ...


#: Takes a URL and a queue; the block's end waits for the last confirm.
Contestant = Callable[[str, str], AbstractContextManager[Publish]]


@contextmanager
def ours(url: str, queue: str, **settings: Any) -> Iterator[Publish]:
    """Flask-EventCollector: one connection, confirms of all threads pipelined."""
    app = Flask("benchmark")
    app.config["EVENTCOLLECTOR_BROKER_URL"] = url
    app.config["EVENTCOLLECTOR_QUEUES"] = {queue: {}}
    app.config.update(
        {f"EVENTCOLLECTOR_{key}": value for key, value in settings.items()}
    )
    collector = EventCollector(app)
    collector.enqueue_event(PAYLOAD, queue)
    collector.publish(timeout=10)

    def publish(events: int) -> None:
        for _ in range(events):
            collector.enqueue_event(PAYLOAD, queue)
        collector.publish()

    yield publish
    if not collector.close(60):
        raise RuntimeError("not everything was confirmed")


@contextmanager
def ours_without_waiting(url: str, queue: str) -> Iterator[Publish]:
    """The same with ``CONFIRM_TIMEOUT = 0``: a batch is only handed over."""
    with ours(url, queue, CONFIRM_TIMEOUT=0) as publish:
        yield publish


def per_thread(make: Callable[[str, str], Callable[[], None]]) -> Contestant:
    """A contestant that has a connection in each thread, and confirms each event."""

    @contextmanager
    def prepared(url: str, queue: str) -> Iterator[Publish]:
        here = threading.local()

        def publish(events: int) -> None:
            if not hasattr(here, "publish_one"):
                here.publish_one = make(url, queue)
            for _ in range(events):
                here.publish_one()

        yield publish

    prepared.__doc__ = make.__doc__
    return prepared


def _blocking(url: str, queue: str) -> Callable[[], None]:
    """pika's BlockingConnection, one for each thread, each event confirmed."""
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()

    def publish_one() -> None:
        body = json.dumps(PAYLOAD).encode()
        channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)

    return publish_one


def _kombu(url: str, queue: str) -> Callable[[], None]:
    """kombu, one connection for each thread, each event confirmed."""
    connection = Connection(url, transport_options={"confirm_publish": True})
    producer = Producer(connection.channel())
    declared = [Queue(queue, durable=True)]

    def publish_one() -> None:
        producer.publish(PAYLOAD, routing_key=queue, declare=declared, mandatory=True)

    return publish_one


@contextmanager
def one_connection(url: str, queue: str) -> Iterator[Publish]:
    """One BlockingConnection that the threads share, each event confirmed."""
    publish_one = _blocking(url, queue)
    turn = threading.Lock()

    def publish(events: int) -> None:
        for _ in range(events):
            with turn:
                publish_one()

    yield publish


@contextmanager
def connection_per_batch(url: str, queue: str) -> Iterator[Publish]:
    """A new BlockingConnection for each batch, each event confirmed."""

    def publish(events: int) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        channel.confirm_delivery()
        for _ in range(events):
            body = json.dumps(PAYLOAD).encode()
            channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)
        connection.close()

    yield publish


#: By the displayed name; the first one is the baseline.
CONTESTANTS: dict[str, Contestant] = {
    "one BlockingConnection": one_connection,
    "BlockingConnection per thread": per_thread(_blocking),
    "BlockingConnection per batch": connection_per_batch,
    "kombu per thread": per_thread(_kombu),
    "Flask-EventCollector": ours,
    "Flask-EventCollector, not waiting": ours_without_waiting,
}
