"""Asks RabbitMQ's management API which queues a virtual host has, since AMQP can't."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from ..config.broker_url import BrokerURL

#: Seconds that an answer may take.
_TIMEOUT = 10.0
#: How many names are shown.
_SHOWN = 5
_KINDS = {"http": HTTPConnection, "https": HTTPSConnection}


class ManagementFailed(Exception):
    """The management API does not say. The text has no credential."""


class Queues(NamedTuple):
    """What a virtual host has."""

    number: int
    #: The first names.
    names: list[str]


@dataclass(frozen=True)
class Management:
    """The address of a management API; its login is the broker's if it has none."""

    scheme: str
    host: str
    port: int | None
    #: What its path begins with.
    prefix: str
    username: str | None = None
    password: str = field(default="", repr=False)

    def queues(self, url: BrokerURL) -> Queues:
        """The queues of the broker's virtual host.

        :raises ManagementFailed: it can't be asked, or refuses.
        """
        vhost = quote(url.vhost, safe="")
        page = f"page=1&page_size={_SHOWN}&columns=name"
        answer = self._get(f"{self.prefix}/api/queues/{vhost}?{page}", url)
        try:
            found = json.loads(answer)
            names = [str(queue["name"]) for queue in found["items"]]
            return Queues(int(found["total_count"]), names)
        except (KeyError, TypeError, ValueError) as error:
            raise ManagementFailed(f"{self} did not answer with queues") from error

    def _get(self, path: str, url: BrokerURL) -> bytes:
        connection = _KINDS[self.scheme](self.host, self.port, timeout=_TIMEOUT)
        try:
            connection.request("GET", path, headers=self._headers(url))
            answer = connection.getresponse()
            body: bytes = answer.read()
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ManagementFailed(f"{self} can't be asked: {reason}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise ManagementFailed(f"{self} answered {answer.status} {answer.reason}")
        return body

    def _headers(self, url: BrokerURL) -> dict[str, str]:
        login = f"{url.username}:{url.password}"
        if self.username is not None:
            login = f"{self.username}:{self.password}"
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def parse_management_url(text: str) -> Management:
    """Read the URL of a management API.

    :raises ValueError: it is none. The text has no credential.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("it has a port or a host that is none") from None
    if parts.scheme not in _KINDS or not parts.hostname:
        raise ValueError(
            "it must be the address of RabbitMQ's management UI, for example"
            " http://host:15672"
        )
    username = None if parts.username is None else unquote(parts.username)
    password = unquote(parts.password or "")
    prefix = parts.path.rstrip("/")
    return Management(parts.scheme, parts.hostname, port, prefix, username, password)
