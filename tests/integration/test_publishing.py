"""What a healthy RabbitMQ receives."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone

import pika
import pytest
from flask import Flask
from kombu.connection import Connection

from flask_eventcollector import EventCollector
from tests.integration import load
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def queue(rabbitmq: RabbitMQNode) -> Iterator[str]:
    name = load.fresh_queue()
    yield name
    rabbitmq.delete(name)


@pytest.fixture
def shop(rabbitmq: RabbitMQNode, queue: str) -> Iterator[tuple[Flask, EventCollector]]:
    app, events = load.make_app(rabbitmq.url, queue)
    yield app, events
    events.close(5)


def test_each_event_of_200_requests_arrives_once_and_in_order(
    shop: tuple[Flask, EventCollector], rabbitmq: RabbitMQNode, queue: str
) -> None:
    app, events = shop
    requests = load.Load(app)

    requests.run(load.orders(range(200)))

    assert events.flush(20)
    load.assert_all_confirmed(events.stats(), 1000)
    messages = rabbitmq.get_all(queue)
    assert load.places_by_order(messages) == load.complete(range(200))
    assert len(set(load.ids(messages))) == len(messages) == 1000
    assert not load.marked(messages)


def test_failing_requests_leave_nothing(
    shop: tuple[Flask, EventCollector], rabbitmq: RabbitMQNode, queue: str
) -> None:
    app, events = shop
    requests = load.Load(app)

    requests.run(f"/orders/{number}/refused" for number in range(50))

    assert requests.statuses == [409] * 50
    stats = events.stats()
    assert (stats.discarded, stats.confirmed, stats.balanced) == (50, 0, True)
    requests.run(load.orders([1000]))
    assert events.flush(20)
    assert load.places_by_order(rabbitmq.get_all(queue)) == load.complete([1000])


def test_the_properties_are_as_promised(
    shop: tuple[Flask, EventCollector], rabbitmq: RabbitMQNode, queue: str
) -> None:
    _, events = shop
    before = int(time.time())

    event = events.enqueue_event({"id": 7}, queue, headers={"tenant": "a", "n": 3})

    assert events.publish(timeout=10).complete
    [message] = rabbitmq.get_all(queue)
    properties = message.properties
    assert properties.message_id == event.id
    assert properties.content_type == "application/json"
    assert properties.delivery_mode == pika.DeliveryMode.Persistent.value
    assert properties.app_id == "load"
    assert before <= (properties.timestamp or 0) <= time.time()
    assert properties.headers == {"tenant": "a", "n": 3}
    assert json.loads(message.body) == {"id": 7}


def test_a_consumer_that_is_not_ours_reads_plain_json(
    shop: tuple[Flask, EventCollector], rabbitmq: RabbitMQNode, queue: str
) -> None:
    _, events = shop
    order = {
        "id": uuid.UUID(int=1),
        "at": datetime(2026, 1, 2, 3, 4, 5, 678901, timezone.utc),
        "total": "12.50",
        "name": "Zoë",
    }
    events.enqueue_event(order, queue, headers={"deep": {"list": [1, "two", None]}})
    assert events.publish(timeout=10).complete

    with Connection(rabbitmq.url) as connection:
        message = connection.SimpleQueue(queue).get(timeout=10)

    assert message.payload == {
        "id": "00000000-0000-0000-0000-000000000001",
        "at": "2026-01-02T03:04:05.678901+00:00",
        "total": "12.50",
        "name": "Zoë",
    }
    assert message.headers == {"deep": {"list": [1, "two", None]}}


def test_a_named_exchange_is_published_to(
    shop: tuple[Flask, EventCollector], rabbitmq: RabbitMQNode, queue: str
) -> None:
    _, events = shop
    events.enqueue_event("first", queue)
    assert events.publish(timeout=10).complete
    exchange = f"{queue}.exchange"
    with rabbitmq.channel() as channel:
        channel.exchange_declare(exchange, "topic")
        channel.queue_bind(queue, exchange, "placed.#")

    events.enqueue_event("second", "placed.eu", exchange=exchange)

    assert events.publish(timeout=10).complete
    assert [m.json() for m in rabbitmq.get_all(queue)] == ["first", "second"]
    with rabbitmq.channel() as channel:
        channel.exchange_delete(exchange)


def test_an_event_as_large_as_allowed_arrives(
    shop: tuple[Flask, EventCollector], rabbitmq: RabbitMQNode, queue: str
) -> None:
    _, events = shop
    text = "x" * (1024 * 1024 - 2)

    for _ in range(20):
        events.enqueue_event(text, queue)

    assert events.publish(timeout=30).complete
    assert {m.json() == text for m in rabbitmq.get_all(queue)} == {True}
