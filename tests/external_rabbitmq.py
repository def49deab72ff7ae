"""A RabbitMQ that somebody else runs, for the tests that need no more than a broker.

It is at port `$TEST_RABBITMQ_PORT` of 127.0.0.1 and lets guest in. What only a node of
our own can do (be stopped, killed, alarmed, asked by Erlang) skips the test.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

import pytest

from tests.rabbitmq import RabbitMQNode

VARIABLE = "TEST_RABBITMQ_PORT"


def find_port() -> int | None:
    """Return the external broker's port, or None if there is none."""
    port = os.environ.get(VARIABLE)
    return int(port) if port else None


def skip(*_: object, **__: object) -> NoReturn:
    pytest.skip(f"not run, missing: a private node (the broker is ${VARIABLE})")


class ExternalRabbitMQ(RabbitMQNode):
    """Offers what a node offers to tests that neither control nor inspect it."""

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
        """It runs, or it does not."""

    def close(self) -> None:
        """It goes on."""

    def declare(self, queue: str, **arguments: str | int | bool) -> str:
        # Nobody kills it, so what it has in its buffers is safe.
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
