"""Converts settings to pika's parameters without pika's URL parser."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pika
from pika.credentials import ExternalCredentials

from ...config.broker_url import BrokerURL
from ...config.tls import tls_context
from ...messages.amqp_fields import fitting_name
from .logins import Login

#: Seconds for the TCP connection, unless the URL has ``connection_timeout``.
_TCP_TIMEOUT = 5.0
#: Additional seconds for TLS and the AMQP handshake.
_HANDSHAKE_TIMEOUT = 10.0


def attempts(
    url: BrokerURL, heartbeat: float, name: str, login: Login
) -> Iterator[pika.ConnectionParameters]:
    """Parameters for each address of the URL's host, in the resolver's order.

    The name is resolved in the calling thread, which blocks as long as the resolver
    does. pika would instead start a thread for each attempt, and a hanging resolver
    would block them all.

    :raises OSError: the name can't be resolved.
    :raises ConfigurationError: a TLS file can't be used any more.
    """
    found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    for address in dict.fromkeys(_address(info[4]) for info in found):
        tcp_timeout = url.connection_timeout or _TCP_TIMEOUT
        yield pika.ConnectionParameters(
            host=address,
            port=url.port,
            virtual_host=url.vhost,
            credentials=_credentials(url, login),
            heartbeat=int(heartbeat),
            channel_max=url.number("channel_max") or pika.channel.MAX_CHANNELS,
            frame_max=url.number("frame_max") or pika.spec.FRAME_MAX_SIZE,
            socket_timeout=tcp_timeout,
            stack_timeout=tcp_timeout + _HANDSHAKE_TIMEOUT,
            ssl_options=_tls(url, login.keyfile_password),
            client_properties={"connection_name": fitting_name(name)},
        )


def _credentials(
    url: BrokerURL, login: Login
) -> pika.PlainCredentials | ExternalCredentials:
    if url.is_external:
        return ExternalCredentials()
    given = login.credentials
    if given is None:
        return pika.PlainCredentials(url.username, url.password)
    return pika.PlainCredentials(given.username or url.username, given.password)


def _address(socket_address: tuple[Any, ...]) -> str:
    """The address as text, with the zone of a link-local IPv6 address."""
    zone = socket_address[3] if len(socket_address) == 4 else 0
    return f"{socket_address[0]}%{zone}" if zone else str(socket_address[0])


def _tls(url: BrokerURL, keyfile_password: str | None) -> pika.SSLOptions | None:
    if url.scheme != "amqps":
        return None
    context = tls_context(url, keyfile_password)
    name = url.options.get("server_name_indication", url.zoneless_host)
    return pika.SSLOptions(context, name)
