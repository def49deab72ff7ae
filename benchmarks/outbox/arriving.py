"""Watches from outside how the rows of an outbox arrive in a queue."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from tests.rabbitmq import RabbitMQNode

from ..rig import PATIENCE, new_queue

_ROOT = Path(__file__).parents[2]
#: Seconds between two looks at the queue.
_LOOK = 0.005
#: Seconds without a message after which the next one is missing.
_SILENCE = 20.0


@contextmanager
def running(
    *commands: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[list[subprocess.Popen[str]]]:
    """Run Python with each of the arguments; at the end, stop what still runs."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(_process(command, environment)) for command in commands
        ]


@contextmanager
def _process(
    command: Sequence[str], environment: Mapping[str, str] | None
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=_ROOT,
    )
    with process:
        try:
            yield process
            process.terminate()
            process.wait(10)
        finally:
            process.kill()


def answer(process: subprocess.Popen[str]) -> Any:
    """What the process prints in a line of JSON.

    :raises RuntimeError: it has ended without.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"no answer, run it to see why: {process.args!r}")
    return json.loads(line)


class Watch:
    """Counts the messages that arrive in a queue."""

    def __init__(self, channel: BlockingChannel, queue: str) -> None:
        self._channel = channel
        self._queue = queue
        self._purged = 0

    def count(self) -> int:
        declared = self._channel.queue_declare(self._queue, passive=True)
        return self._purged + int(declared.method.message_count)

    def purge(self) -> None:
        """Remove what has arrived, which stays counted."""
        purged = self._channel.queue_purge(self._queue)
        self._purged += purged.method.message_count or 0

    def rate(self, events: int) -> float:
        """Messages per second, from the first one that is seen until all have come.

        :raises RuntimeError: too many have come.
        """
        before = first = self.count()
        while first == before:
            first = self.wait_for_more(first, events)
        began = time.perf_counter()
        last = self.wait_until(events)
        rate = (last - first) / (time.perf_counter() - began)
        if last > events:
            raise RuntimeError(f"{last} messages, though {events} were sent")
        return rate

    def wait_until(self, events: int) -> int:
        """Return how many have come, as soon as it are so many.

        :raises RuntimeError: no message comes any more.
        """
        found = self.count()
        while found < events:
            found = self.wait_for_more(found, events)
        return found

    def wait_for_more(self, found: int, events: int) -> int:
        """Return how many there are, as soon as they are more than were *found*."""
        deadline = time.monotonic() + max(_SILENCE, PATIENCE)
        while (count := self.count()) <= found:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{found} of {events} have arrived in {self._queue}")
            time.sleep(_LOOK)
        return count


@contextmanager
def new_watch(node: RabbitMQNode) -> Iterator[tuple[str, Watch]]:
    """A queue, and what counts in it."""
    with new_queue(node) as queue, node.channel() as channel:
        yield queue, Watch(channel, queue)


def check_order(node: RabbitMQNode, queue: str, events: int) -> None:
    """Consume the messages, whose numbers must be 1, 2, 3, …

    :raises RuntimeError: one is missing, too much, or not in its place.
    """
    if (found := node.count(queue)) != events:
        raise RuntimeError(f"{found} messages in {queue}, though {events} were sent")
    numbers = islice(numbers_in(node, queue), events)
    for place, number in enumerate(numbers, 1):
        if number != place:
            raise RuntimeError(f"event {number} is in place {place} of {queue}")


def numbers_in(node: RabbitMQNode, queue: str) -> Iterator[int]:
    """The numbers in the messages, each removed from the queue."""
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    channel = connection.channel()
    messages = channel.consume(queue, auto_ack=True, inactivity_timeout=_SILENCE)
    try:
        for method, _, body in messages:
            if method is None or body is None:
                return
            yield int(json.loads(body)["n"])
    finally:
        connection.close()
