"""Identifies the broker of the events in a spool file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote

from ...config.broker_url import BrokerURL

#: In characters; the addresses must fit into the first page of a file.
_LONGEST = 2_000
_ADDRESS = re.compile(
    r"(?P<scheme>\w+)://(?:(?P<host>.*):(?P<port>\d+)/(?P<vhost>.*))?"
)


class Destination(NamedTuple):
    """A broker and a virtual host, as the identity of a destination.

    Credentials and TLS settings are not part of it: they may change, and it is written
    into files. Neither is the name of the cluster, which is known only from a
    connection.
    """

    #: ``amqp://host:port/vhost`` for each known node, or ``memory://``.
    addresses: tuple[str, ...]

    @classmethod
    def of(cls, urls: Iterable[BrokerURL]) -> Destination:
        """The destination of the events that are published to *urls*."""
        addresses = list(dict.fromkeys(map(_address, urls)))
        while len(" ".join(addresses)) > _LONGEST:
            addresses.pop()
        return cls(tuple(addresses))

    def __str__(self) -> str:
        return " ".join(self.addresses)

    @property
    def digest(self) -> str:
        """A short text that is the same for the same set of addresses."""
        addresses = " ".join(sorted(self.addresses))
        return hashlib.sha256(addresses.encode()).hexdigest()[:8]

    def is_same(self, other: Destination) -> bool:
        """Whether both have a node in common, in the same virtual host.

        So nodes may be added to a cluster, and removed from it.
        """
        return any(_is_same(a, b) for a in self.addresses for b in other.addresses)


def _address(url: BrokerURL) -> str:
    if url.scheme == "memory":
        return str(url)
    host = quote(url.zoneless_host.lower(), safe=":")
    host = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{host}:{url.port}/{quote(url.vhost, safe='')}"


def _is_same(address: str, other: str) -> bool:
    one, two = _ADDRESS.fullmatch(address), _ADDRESS.fullmatch(other)
    if one is None or two is None or one["vhost"] != two["vhost"]:
        return False
    # A node has different ports with and without TLS, so the port is ignored.
    same_port = one["port"] == two["port"] or one["scheme"] != two["scheme"]
    return one["host"] == two["host"] and same_port
