"""An externally run RabbitMQ, for tests that only need a broker.

It listens on port `$TEST_RABBITMQ_PORT` of 127.0.0.1 and accepts the user guest. Tests
that need a private node (to stop, kill or alarm it, or to evaluate Erlang) are skipped.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

import pytest

from tests.rabbitmq import RabbitMQNode

VARIABLE = "TEST_RABBITMQ_PORT"


def find_port() -> int | None:
    """Return the external broker's port, or None."""
    port = os.environ.get(VARIABLE)
    return int(port) if port else None


def skip(*_: object, **__: object) -> NoReturn:
    pytest.skip(f"not run, missing: a private node (the broker is ${VARIABLE})")


class ExternalRabbitMQ(RabbitMQNode):
    """Has a node's interface, for tests that neither control nor inspect the node."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __repr__(self) -> str:
        return f"<ExternalRabbitMQ {self.url}>"

    @property
    def version(self) -> str:
        with self.channel() as channel:
            # Neither pika nor its stubs name it publicly.
            connection: Any = channel.connection
            return str(connection._impl.server_properties["version"])

    def start(self) -> None:
        """It runs already."""

    def close(self) -> None:
        """It keeps running."""

    def declare(self, queue: str, **arguments: str | int | bool) -> str:
        # It is not killed, so its buffers are safe.
        return self._declare(queue, **arguments)

    pid = property(skip)
    log = property(skip)
    is_running = property(skip)
    ctl = skip
    eval = skip
    stop = skip
    kill = skip
    freeze = skip
    thaw = skip
