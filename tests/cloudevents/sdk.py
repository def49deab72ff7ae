"""What the official SDK for Python reads in our messages, and what it writes.

https://github.com/cloudevents/sdk-python
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cloudevents.core.bindings.amqp import AMQPMessage, from_amqp_event
from cloudevents.core.bindings.rabbitmq import (
    RabbitMQMessage,
    from_rabbitmq_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent
from pika import BasicProperties

from flask_eventcollector import Event


def read(event: Event) -> CloudEvent:
    """Read the message of *event* by the binding to RabbitMQ."""
    headers = dict(event.headers)
    return from_rabbitmq_event(RabbitMQMessage(headers, event.content_type, event.body))


def read_message(properties: BasicProperties, body: bytes) -> CloudEvent:
    """Read a message that has arrived, by the binding to RabbitMQ."""
    headers: dict[str, Any] = dict(properties.headers or {})
    return from_rabbitmq_event(RabbitMQMessage(headers, properties.content_type, body))


def read_amqp(event: Event) -> CloudEvent:
    """Read the message of *event* by the binding to AMQP 1.0."""
    properties = {"content-type": event.content_type}
    return from_amqp_event(AMQPMessage(properties, dict(event.headers), event.body))


def write(attributes: dict[str, Any], data: Any, mode: str) -> tuple[Any, bytes]:
    """The properties and the body of a message that the SDK writes."""
    to_message = to_binary_event if mode == "binary" else to_structured_event
    message = to_message(CloudEvent(dict(attributes), data))
    properties = BasicProperties(
        message_id=attributes["id"],
        content_type=message.content_type,
        headers=message.headers,
    )
    return properties, message.body


def about(event: CloudEvent) -> dict[str, Any]:
    """Its attributes, without those that tell one event from another."""
    found = dict(event.get_attributes())
    assert isinstance(found.pop("time"), datetime)
    assert len(found.pop("id")) == 36
    return found
