"""CloudEvents through a real RabbitMQ, in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pika
import pytest
from flask import Flask

from flask_eventcollector import EventCollector, received
from tests.cloudevents import sdk
from tests.integration import load
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq

ATTRIBUTES = {"subject": "Zoë", "retries": -3, "flag": True}
TEXTS = {"subject": "Zoë", "retries": "-3", "flag": "true"}


@pytest.fixture
def queue(rabbitmq: RabbitMQNode) -> Iterator[str]:
    name = load.fresh_queue()
    yield name
    rabbitmq.delete(name)


def publish(url: str, queue: str, mode: str, **settings: Any) -> str:
    """Publish one event as a CloudEvent, and return its id."""
    app = Flask("shop")
    about = {"BROKER_URL": url, "QUEUES": {queue: {}}, "CLOUDEVENTS_SOURCE": "/shop"}
    about |= {"CLOUDEVENTS": mode, **settings}
    app.config.from_mapping({f"EVENTCOLLECTOR_{k}": v for k, v in about.items()})
    events = EventCollector(app)
    try:
        event = events.enqueue_event({"name": "Zoë"}, queue, attributes=ATTRIBUTES)
        assert events.publish(timeout=10).complete
    finally:
        events.close(5)
    return event.id


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_the_sdk_reads_what_arrives(
    rabbitmq: RabbitMQNode, queue: str, mode: str
) -> None:
    id = publish(rabbitmq.url, queue, mode, BATCH_HEADERS=True)

    [message] = rabbitmq.get_all(queue)
    found = sdk.read_message(message.properties, message.body)

    assert (found.get_id(), found.get_source(), found.get_type()) == (
        id,
        "/shop",
        queue,
    )
    assert found.get_data() == {"name": "Zoë"}
    read = {name: str(found.get_extension(name)).lower() for name in TEXTS}
    assert read == {name: text.lower() for name, text in TEXTS.items()}
    assert (message.properties.message_id, message.properties.type) == (id, queue)
    assert (message.properties.headers or {})["x-batch-size"] == 1


@pytest.mark.parametrize("prefix", ["ce-", "cloudEvents_"])
def test_received_reads_what_arrives(
    rabbitmq: RabbitMQNode, queue: str, prefix: str
) -> None:
    id = publish(rabbitmq.url, queue, "binary", CLOUDEVENTS_PREFIX=prefix)

    [arrived] = rabbitmq.get_all(queue)
    message = received(arrived.properties)

    moment = message.attributes["time"]
    assert message.attributes == {
        "specversion": "1.0",
        "id": id,
        "source": "/shop",
        "type": queue,
        "time": moment,
        "datacontenttype": "application/json",
        **TEXTS,
    }
    assert moment.replace(microsecond=0) == message.enqueued_at


def test_received_reads_what_the_sdk_has_published(
    rabbitmq: RabbitMQNode, queue: str
) -> None:
    about = {"id": "7", "source": "/sdk", "type": "order", "subject": "Zoë"}
    properties, body = sdk.write(about, {"a": 1}, "binary")
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
        channel.basic_publish("", queue, body, properties)

    [arrived] = rabbitmq.get_all(queue)
    message = received(arrived.properties)

    assert {name: message.attributes[name] for name in about} == about
    assert sdk.read_message(arrived.properties, arrived.body).get_subject() == "Zoë"
