"""Asks a broker what exists and what is allowed, and changes nothing there."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ConnectionBlockedTimeout

from .declarations import Phase, Step
from .pika_logging import silence_pika_in_this_thread
from .reasons import CONNECTION_ERRORS, Stage, broker_text, explain, stage_of
from .trials import (
    Connect,
    Refusal,
    Trials,
    certificate_ends,
    server_properties,
)

#: Where RabbitMQ is known to check rights first and values then.
_CHECKED = "RabbitMQ"
_REFUSED = 403
_MISSING = 404


class Unreachable(Exception):
    """There is no connection to a node, or it has ended."""

    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(reason)
        #: How far it has come.
        self.stage = stage


class Blocked(Exception):
    """The broker takes no messages, since it lacks memory or disk space."""


class RoundTrip(NamedTuple):
    """How long a message takes to a queue and back."""

    seconds: float
    #: Why no message was sent, so that only an answer counts; ``""``: one was.
    why_without: str = ""


class Questions:
    """Questions to one node.

    Each blocks until the node has answered, for as long as the connection's timeouts
    are, and raises :exc:`Unreachable` if there is no connection, or :exc:`Blocked`.
    """

    def __init__(self, connect: Connect) -> None:
        self._trials = Trials(connect)
        silence_pika_in_this_thread()

    def close(self) -> None:
        """Close the connection."""
        self._trials.close()

    def server(self) -> str:
        """What it is, with its version, for example ``RabbitMQ 4.0.5``."""
        found = self._properties()
        return f"{found.get('product', 'unknown')} {found.get('version', '')}".strip()

    def certificate_days(self) -> float | None:
        """Days until its certificate ends; ``None``: it has none, or any is good."""
        with _explained():
            ends = certificate_ends(self._trials.connection())
        return None if ends is None else (ends - time.time()) / 86_400

    def round_trip(self) -> RoundTrip:
        """Send a message to a queue of this connection alone, and read it back."""
        times: list[float] = []
        error = self._refusal(lambda channel: times.append(_send_around(channel)))
        if error is None:
            return RoundTrip(times[0])
        began = time.perf_counter()
        self._refusal(lambda channel: channel.confirm_delivery())
        return RoundTrip(time.perf_counter() - began, broker_text(error))

    def has_queue(self, name: str) -> bool:
        """Whether the queue exists."""
        return self._exists(lambda channel: channel.queue_declare(name, passive=True))

    def has_exchange(self, name: str) -> bool:
        """Whether the exchange exists."""
        return self._exists(
            lambda channel: channel.exchange_declare(name, passive=True)
        )

    def why_not_publish(self, exchange: str) -> str:
        """Why the user may not publish to *exchange*; ``""``: it may.

        The message has an expiration that is no number. RabbitMQ refuses it, once it
        has checked the rights, and before it routes it.
        """
        return self._why_not(partial(_publish_void, exchange=exchange))

    def why_not_declare(self, step: Step) -> str:
        """Why the user may not declare what does not exist; ``""``: it may.

        An argument has an impossible value, which RabbitMQ refuses once it has checked
        the rights.
        """
        void = {"alternate-exchange": 0}
        if step.phase is Phase.QUEUES:
            void = {"x-expires": -1}
        arguments = {**step.values["arguments"], **void}
        return self._why_not(
            Step(step.phase, step.name, {**step.values, "arguments": arguments}).send
        )

    def why_not_bind(self, step: Step) -> str:
        """Why the user may not bind a queue to an exchange, both of which exist.

        It asks to remove a binding that does not exist, which needs the same rights.
        """
        void = {**step.values, "routing_key": f"doctor-{secrets.token_hex(8)}"}
        return self._why_not(lambda channel: channel.queue_unbind(**void))

    def _why_not(self, send: Callable[[BlockingChannel], Any]) -> str:
        if self._properties().get("product") != _CHECKED:
            return ""
        error = self._refusal(send)
        text = "" if error is None else broker_text(error)
        is_refused = error is not None and error.reply_code == _REFUSED
        # Rights that depend on the routing key are not known for a random one.
        return text if is_refused and "topic '" not in text else ""

    def _exists(self, look: Callable[[BlockingChannel], Any]) -> bool:
        error = self._refusal(look)
        return error is None or error.reply_code != _MISSING

    def _properties(self) -> Mapping[str, Any]:
        with _explained():
            return server_properties(self._trials.connection())

    def _refusal(self, send: Callable[[BlockingChannel], Any]) -> Refusal | None:
        with _explained():
            return self._trials.refusal(send)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ConnectionBlockedTimeout as error:
        raise Blocked from error
    except CONNECTION_ERRORS as error:
        raise Unreachable(stage_of(error), explain(error)) from error


def _send_around(channel: BlockingChannel) -> float:
    """Seconds for a message to a queue of this connection alone, and back."""
    queue = channel.queue_declare("", exclusive=True, auto_delete=True).method.queue
    channel.confirm_delivery()
    began = time.perf_counter()
    channel.basic_publish("", queue, b"", mandatory=True)
    channel.basic_get(queue, auto_ack=True)
    seconds = time.perf_counter() - began
    channel.queue_delete(queue)
    return seconds


def _publish_void(channel: BlockingChannel, exchange: str) -> None:
    properties = pika.BasicProperties(expiration="void")
    channel.basic_publish(exchange, f"doctor-{secrets.token_hex(8)}", b"", properties)
    # Waits for the answer to what was sent before, too.
    channel.confirm_delivery()
