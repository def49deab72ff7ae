"""Parses a broker's URL strictly, without leaking credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from types import MappingProxyType
from typing import NoReturn
from urllib.parse import SplitResult, quote, unquote, urlsplit

from ..errors import ConfigurationError
from ..messages.amqp_fields import check_name
from ..messages.wording import type_name

_PORTS = {"amqp": 5672, "amqps": 5671}

#: RabbitMQ's names: https://www.rabbitmq.com/docs/uri-query-parameters
_TLS_FILES = ("cacertfile", "certfile", "keyfile")
_TLS_OPTIONS = (*_TLS_FILES, "verify", "server_name_indication")
_OPTIONS = (*_TLS_OPTIONS, "connection_timeout")


@dataclass(frozen=True, slots=True, repr=False)
class BrokerURL:
    """The address of one broker. Neither ``str`` nor ``repr`` shows the password."""

    #: ``amqp``, ``amqps`` or ``memory``.
    scheme: str
    host: str = ""
    port: int = 0
    vhost: str = "/"
    username: str = "guest"
    password: str = "guest"
    #: ``cacertfile``, ``certfile``, ``keyfile`` (paths), ``verify`` (``verify_peer`` or
    #: ``verify_none``), ``server_name_indication``, ``connection_timeout`` (in
    #: milliseconds); only those that were given.
    options: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), hash=False
    )

    @property
    def connection_timeout(self) -> float | None:
        """Seconds that a TCP connection may take; ``None``: the URL does not say."""
        milliseconds = self.options.get("connection_timeout")
        return int(milliseconds) / 1000 if milliseconds else None

    def __str__(self) -> str:
        if self.scheme == "memory":
            return "memory://"
        host = f"[{self.host}]" if ":" in self.host else self.host
        vhost = "" if self.vhost == "/" else quote(self.vhost, safe="")
        query = "&".join(f"{key}={quote(text)}" for key, text in self.options.items())
        return (
            f"{self.scheme}://{quote(self.username, safe='')}:***@{host}:{self.port}"
            f"/{vhost}{'?' if query else ''}{query}"
        )

    def __repr__(self) -> str:
        return f"<BrokerURL {self}>"


MEMORY = BrokerURL("memory")


def parse_broker_urls(value: object, key: str) -> tuple[BrokerURL, ...]:
    """Parse one or several URLs: a str, separated by ``;``, or a list of them.

    :param key: the setting's name in errors, which never show a password.
    :raises ConfigurationError: a URL is invalid, or AMQP clients differ on its meaning.
    """
    texts = value.split(";") if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)):
        raise ConfigurationError(
            f"{key} is of type {type_name(value)}: it must be a URL such as"
            " amqp://user:password@host:5672/vhost, or a list of them"
        )
    # The text between two ";" may be part of a password.
    ambiguous = isinstance(value, str) and len(texts) > 1
    urls = tuple(
        _URLParser(text, name, ambiguous).parse()
        for name, text in _numbered(key, texts)
    )
    if not urls:
        raise ConfigurationError(f"{key} is an empty list: add a URL, or leave it out")
    if MEMORY in urls and len(urls) > 1:
        raise ConfigurationError(
            f"{key} has memory:// among several URLs: use memory:// alone, or leave it"
            " out"
        )
    return urls


def _numbered(key: str, texts: Sequence[object]) -> Iterator[tuple[str, object]]:
    if len(texts) == 1:
        yield key, texts[0]
        return
    for number, text in enumerate(texts, 1):
        yield f"URL {number} of {key}", text


class _URLParser:
    """Parses one URL; rejects what is ambiguous or what pika would misread."""

    def __init__(self, text: object, key: str, ambiguous: bool) -> None:
        if not isinstance(text, str):
            raise ConfigurationError(
                f"{key} is of type {type_name(text)}: it must be a URL as a str"
            )
        self.text = text.strip()
        self.shown = f"{key} ({mask_url(self.text, ambiguous=ambiguous)})"
        self.hint = "; within a URL write ; as %3B" if ambiguous else ""

    def fail(self, problem: str) -> NoReturn:
        # "from None", since the exception being handled may show the password.
        raise ConfigurationError(f"{self.shown} {problem}{self.hint}") from None

    def parse(self) -> BrokerURL:
        parts = self.split()
        if parts.scheme == "memory":
            return MEMORY
        username, password = self.credentials(parts.netloc)
        host, port = self.address(parts.netloc, _PORTS[parts.scheme])
        return BrokerURL(
            scheme=parts.scheme,
            host=host,
            port=port,
            vhost=self.vhost(parts.path),
            username=username,
            password=password,
            options=self.options(parts),
        )

    def split(self) -> SplitResult:
        if not self.text:
            self.fail("is empty: write a URL, or leave it out")
        # urlsplit silently drops some of these.
        if not self.text.isprintable() or " " in self.text:
            self.fail('contains whitespace or control characters: write " " as %20')
        if re.search(r"%(?![0-9A-Fa-f]{2})|%00", self.text):
            self.fail("contains a % without two hexadecimal digits, or %00: write %25")
        # An "@" or "/" in a password shifts the boundaries between the parts.
        if "@" in self.text.partition("@")[2] or "#" in self.text:
            self.fail(
                "contains a second @, or a #: in the user name and the password, write"
                " @ as %40, # as %23, / as %2F"
            )
        parts = self.urlsplit()
        self.check_scheme(parts)
        if "@" in parts.path + parts.query:
            self.fail("has a / or ? in the user name or the password: write %2F, %3F")
        return parts

    def urlsplit(self) -> SplitResult:
        try:
            return urlsplit(self.text)
        except ValueError:
            self.fail("is not a URL: write amqp://user:password@host:5672/vhost")

    def check_scheme(self, parts: SplitResult) -> None:
        scheme, rest = parts.scheme, self.text[len(parts.scheme) :]
        if scheme in ("http", "https"):
            self.fail(
                "is the address of RabbitMQ's management UI: write the broker's own,"
                " amqp://user:password@host:5672/vhost"
            )
        if scheme not in (*_PORTS, "memory") or not rest.startswith("://"):
            self.fail("must begin with amqp://, amqps:// or memory://")
        if scheme == "memory" and rest != "://":
            self.fail("has a host or more, which memory:// can't have: write memory://")

    def credentials(self, netloc: str) -> tuple[str, str]:
        userinfo, at, _ = netloc.rpartition("@")
        if not at:
            return "guest", "guest"
        username, _, password = userinfo.partition(":")
        if not username or not password:
            self.fail(
                "has a user name or a password without the other: write user:password@"
            )
        return self.decode(username), self.decode(password)

    def address(self, netloc: str, default_port: int) -> tuple[str, int]:
        address = netloc.rpartition("@")[2]
        if "," in address:
            self.fail('has a comma: write whole URLs, separated by ";"')
        match = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?", address)
        if not match:
            self.fail("has an invalid host: write an IPv6 address in []")
        host, port = match.groups()
        return self.host(host), default_port if port is None else self.port(port)

    def host(self, host: str) -> str:
        if host.startswith("["):
            return self.ipv6(host[1:-1])
        if not host:
            self.fail("has no host: write it after // or @")
        if not re.fullmatch(r"[\w.-]+", host):
            self.fail("has a host with characters that are invalid in a host name")
        return host

    def ipv6(self, address: str) -> str:
        try:
            return str(IPv6Address(unquote(address)))
        except ValueError:
            self.fail("has something in [] that is not an IPv6 address")

    def port(self, port: str) -> int:
        if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            self.fail("has a port that is not a number from 1 to 65535")
        return int(port)

    def vhost(self, path: str) -> str:
        if path in ("", "/"):
            return "/"
        if "/" in path[1:]:
            self.fail("has a / in the virtual host: write it as %2F")
        vhost = self.decode(path[1:])
        try:
            return check_name(vhost, "the virtual host")
        except ValueError as error:
            self.fail(f"can't be used: {error}")

    def decode(self, text: str) -> str:
        try:
            return unquote(text, errors="strict")
        except UnicodeDecodeError:
            self.fail("has %-escapes that are not UTF-8")

    def options(self, parts: SplitResult) -> Mapping[str, str]:
        options: dict[str, str] = {}
        for pair in filter(None, parts.query.split("&")):
            name, _, text = pair.partition("=")
            self.check_option_name(name, parts.scheme)
            if name in options:
                self.fail(f"has {name} twice: write it once")
            options[name] = self.decode(text)
            self.check_option(name, options[name])
        if "keyfile" in options and "certfile" not in options:
            self.fail("has keyfile without certfile: add certfile=…")
        return MappingProxyType(options)

    def check_option_name(self, name: str, scheme: str) -> None:
        if name == "heartbeat":
            self.fail(
                "has the parameter heartbeat: set EVENTCOLLECTOR_HEARTBEAT instead"
            )
        if name not in _OPTIONS:
            # Its name is not shown, since it may be the rest of a password.
            self.fail(
                f"has an unknown parameter: the known ones are {', '.join(_OPTIONS)}"
            )
        if name in _TLS_OPTIONS and scheme != "amqps":
            self.fail(f"has {name}, which is for TLS only: write amqps://")

    def check_option(self, name: str, text: str) -> None:
        if not text:
            self.fail(f"has {name} without a value: add one, or leave it out")
        if name in _TLS_FILES and not os.path.isfile(text):
            self.fail(f"names a {name} that does not exist, relative to {os.getcwd()}")
        if name == "verify" and text not in ("verify_peer", "verify_none"):
            self.fail("has an unknown verify: write verify_peer or verify_none")
        if name == "connection_timeout" and not re.fullmatch("[1-9][0-9]{0,8}", text):
            self.fail("has a connection_timeout that is not a number of milliseconds")


_KNOWN_SCHEME = re.compile(r"(?:amqps?|https?|memory)://")
_CLEAR_URL = re.compile(
    r"[^@/?#]+@(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+\])(?:[:/?][^@]*)?",
)


def mask_url(text: str, *, ambiguous: bool = False) -> str:
    """The part of a URL that is safe to show: the scheme, and an unambiguous host.

    :param ambiguous: the text may be part of another URL, so hide the host.
    """
    scheme = _KNOWN_SCHEME.match(text)
    if not scheme:
        return "***"
    clear = None if ambiguous else _CLEAR_URL.fullmatch(text, scheme.end())
    return f"{scheme[0]}***{'@' + clear['host'] if clear else ''}"
