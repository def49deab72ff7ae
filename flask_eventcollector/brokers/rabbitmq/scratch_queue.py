"""A queue that is made for one purpose, and deleted afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker

from ...messages.wording import counted
from .pika_logging import pika_silenced
from .reasons import broker_text
from .trials import Connect, server_properties

#: Seconds without a message after which an empty queue counts as read, and how many
#: times in a row nothing may come while the broker says that there is more.
_QUIET, _MOST_QUIET = 1.0, 30


class QueueRefused(Exception):
    """The broker did not do what was asked, or ended the connection over it."""


class ScratchQueue:
    """A durable queue, and a new connection for each call, since brokers restart.

    Not thread-safe; each call blocks until the broker has answered. Raises
    :exc:`QueueRefused`, and :exc:`.BrokerUnreachable` if there is no connection.

    :param arguments: AMQP arguments, such as ``x-queue-type``.
    """

    def __init__(self, connect: Connect, name: str, arguments: dict[str, Any]) -> None:
        self._connect = connect
        self.name = name
        self._arguments = arguments
        self._is_ours = False

    def check_broker(self) -> str:
        """The broker's product and version, if it can be reached."""
        with self._channel() as channel:
            about = server_properties(channel.connection)
        words = [about.get(word, "") for word in ("product", "version")]
        return " ".join(str(word) for word in words if word) or "an unknown broker"

    def declare(self) -> None:
        """Declare it; refuses a queue that exists already."""
        if self._exists():
            raise QueueRefused(f"the queue {self.name} exists already")
        with self._channel() as channel:
            channel.queue_declare(self.name, durable=True, arguments=self._arguments)
            self._is_ours = True

    def take_all(self) -> Iterator[tuple[Any, bytes]]:
        """The properties and the body of each message, the oldest first.

        They are acknowledged at once, so what follows an error is gone.
        """
        with self._channel() as channel:
            declared = channel.queue_declare(self.name, passive=True)
            left, quiet = declared.method.message_count, 0
            consumed = channel.consume(
                self.name, auto_ack=True, inactivity_timeout=_QUIET
            )
            for _method, properties, body in consumed:
                if body is not None:
                    left, quiet = left - 1, 0
                    yield properties, body
                elif left <= 0:
                    return
                elif (quiet := quiet + 1) > _MOST_QUIET:
                    missing = counted(left, "message")
                    raise QueueRefused(f"{self.name} keeps back {missing}")

    def delete(self) -> None:
        """Delete it, if it was declared here."""
        if self._is_ours:
            with self._channel() as channel:
                channel.queue_delete(self.name)
            self._is_ours = False

    def _exists(self) -> bool:
        try:
            with self._channel() as channel:
                channel.queue_declare(self.name, passive=True)
        except QueueRefused as error:
            cause = error.__cause__
            if isinstance(cause, ChannelClosedByBroker) and cause.reply_code == 404:
                return False
            raise
        return True

    @contextmanager
    def _channel(self) -> Iterator[BlockingChannel]:
        with pika_silenced():
            connection = self._connect()
            try:
                yield connection.channel()
            except AMQPError as error:
                raise QueueRefused(broker_text(error)) from error
            finally:
                if connection.is_open:
                    connection.close()
