"""Tries what the broker may refuse, on channels that it may close over it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker

from ...config.broker_url import BrokerURL
from .logins import Logins
from .parameters import attempts

#: Connects to a broker.
Connect = Callable[[], pika.BlockingConnection]
#: How a broker refuses something.
Refusal = ChannelClosedByBroker | ConnectionClosedByBroker


def open_connection(
    url: BrokerURL,
    heartbeat: float,
    name: str,
    logins: Logins,
    *,
    patience: float | None = None,
) -> pika.BlockingConnection:
    """Connect to the first address of the URL's host that answers.

    :param name: what the broker calls the connection.
    :param logins: what it logs in with.
    :param patience: the most seconds for a TCP connection, for what is spoken then, and
        for a broker that blocks publishers; ``None``: as a worker has it.
    """
    addresses = list(attempts(url, heartbeat, name, logins.get()))
    if patience is not None:
        for address in addresses:
            address.socket_timeout = address.blocked_connection_timeout = patience
            address.stack_timeout = 2 * patience
    return pika.BlockingConnection(addresses)


def server_properties(connection: Any) -> Mapping[str, Any]:
    """What the server has said about itself, such as ``product`` and ``version``.

    :param connection: one of pika's, which offers that only inside.
    """
    return getattr(connection._impl, "server_properties", None) or {}


def certificate_ends(connection: Any) -> float | None:
    """When the server's certificate ends, as a Unix time.

    ``None``: without TLS, or if it is not verified.

    :param connection: one of pika's, which has its socket only inside.
    """
    sock = getattr(connection._impl._transport, "_sock", None)
    found = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
    return ssl.cert_time_to_seconds(str(found["notAfter"])) if found else None


class Trials:
    """Uses a connection until it is closed over something, then another one.

    Not thread-safe; each call blocks until the broker has answered.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: pika.BlockingConnection | None = None
        self._channel: BlockingChannel | None = None

    def refusal(self, send: Callable[[BlockingChannel], Any]) -> Refusal | None:
        """Send something; returns how the broker has refused it.

        :raises pika.exceptions.AMQPError: the connection was lost.
        """
        try:
            send(self._open_channel())
        except (ChannelClosedByBroker, ConnectionClosedByBroker) as error:
            return error
        return None

    def connection(self) -> pika.BlockingConnection:
        """The connection, which is opened if there is none."""
        if self._connection is None or not self._connection.is_open:
            self._connection, self._channel = self._connect(), None
        return self._connection

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None and self._connection.is_open:
            with suppress(AMQPError):
                self._connection.close()

    def _open_channel(self) -> BlockingChannel:
        connection = self.connection()
        if self._channel is None or not self._channel.is_open:
            self._channel = connection.channel()
        return self._channel
