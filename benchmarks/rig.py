"""A private broker, and queues that must have every message at the end."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.rabbitmq import RabbitMQNode

#: How long the broker may take to show what it has confirmed, in seconds.
PATIENCE = 60.0
_numbers = itertools.count(1)


@contextmanager
def private_broker() -> Iterator[RabbitMQNode]:
    """A node of RabbitMQ that nobody else uses."""
    node = RabbitMQNode()
    node.start()
    try:
        yield node
    finally:
        node.close()


@contextmanager
def new_queue(node: RabbitMQNode, kind: str = "classic") -> Iterator[str]:
    """A durable queue, deleted at the end."""
    queue = node.declare(f"benchmark.{next(_numbers)}", x_queue_type=kind)
    yield queue
    node.delete(queue)


@contextmanager
def filled_queue(node: RabbitMQNode, kind: str, events: int) -> Iterator[str]:
    """A durable queue; at the end it must have exactly these events."""
    with new_queue(node, kind) as queue:
        yield queue
        check_arrived(node, queue, events)


def check_arrived(
    node: RabbitMQNode,
    queue: str,
    events: int,
    most: int | None = None,
    patience: float = PATIENCE,
) -> None:
    """Wait until the queue has all events.

    :param most: the most messages that it may have; duplicates are legal after a fault.
    :raises RuntimeError: events are missing, or there are too many.
    """
    most = events if most is None else most
    what = f"{events} events in {queue}"
    wait_until(lambda: node.count(queue) >= events, what, patience)
    if (found := node.count(queue)) > most:
        raise RuntimeError(f"{found} messages in {queue}, though {events} were sent")


def wait_until(holds: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
    """:raises RuntimeError: it does not hold within *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {timeout} s: {what}")
        time.sleep(0.02)


def machine() -> dict[str, str | int | None]:
    """What the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (line for line in lines if line.startswith("model name"))
            return next(names, ":").partition(":")[2].strip()
    except OSError:
        return platform.processor()
