"""How OpenTelemetry's conventions for messaging name things.

They are in development: https://opentelemetry.io/docs/specs/semconv/messaging/
"""

from __future__ import annotations

from ..events import Target

#: Of our tracers and meters.
SCOPE = "flask_eventcollector"
SCHEMA = "https://opentelemetry.io/schemas/1.44.0"


def destination(target: Target) -> str:
    """The name of a destination, as the conventions for RabbitMQ have it.

    https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/
    """
    return ":".join(filter(None, target))


def about_node(node: str) -> dict[str, str | int]:
    """The attributes of all that a node, ``host:port``, was asked for; none: ``""``."""
    host, _, port = node.rpartition(":")
    return {"server.address": host, "server.port": int(port)} if host else {}


def operation(name: str, kind: str) -> dict[str, str]:
    """The attributes of all that reports an operation."""
    return {
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.system": "rabbitmq",
    }


def about_target(target: Target) -> dict[str, str]:
    """The attributes of a span that concerns *target*."""
    return {
        "messaging.destination.name": destination(target),
        "messaging.rabbitmq.destination.routing_key": target.queue,
    }
