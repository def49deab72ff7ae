"""Parses a broker's URL strictly, without leaking credentials."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from types import MappingProxyType
from typing import NamedTuple, NoReturn
from urllib.parse import quote, unquote

from ..errors import ConfigurationError
from ..messages.amqp_fields import check_name
from ..messages.wording import type_name
from .url_options import problem_with_name, problem_with_value

_PORTS = {"amqp": 5672, "amqps": 5671}
#: Celery's name for its default client.
_SYNONYMS = {"pyamqp": "amqp"}


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
    #: ``verify_none``), ``server_name_indication``, ``heartbeat`` (in seconds),
    #: ``connection_timeout`` (in milliseconds), ``channel_max``, ``frame_max`` (in
    #: bytes), ``auth_mechanism`` (``plain`` or ``external``); only those that were
    #: given.
    options: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), hash=False
    )

    @property
    def connection_timeout(self) -> float | None:
        """Seconds that a TCP connection may take; ``None``: the URL does not say."""
        milliseconds = self.number("connection_timeout")
        return None if milliseconds is None else milliseconds / 1000

    @property
    def is_external(self) -> bool:
        """Whether the client's certificate authenticates it, without a password."""
        return self.options.get("auth_mechanism", "").lower() == "external"

    @property
    def zoneless_host(self) -> str:
        """The host without the zone of a link-local address, for display."""
        return self.host.partition("%")[0]

    def number(self, option: str) -> int | None:
        """The value of *option*, a number; ``None``: the URL does not say."""
        text = self.options.get(option)
        return None if text is None else int(text)

    def with_password(self) -> str:
        """The URL in full, for what connects: neither logs nor people may see it."""
        user, password = quote(self.username, safe=""), quote(self.password, safe="")
        return self._after(f"{user}:{password}@" if user else "")

    def __str__(self) -> str:
        user = quote(self.username, safe="")
        return self._after(f"{user}{':***' if self.password else ''}@" if user else "")

    def _after(self, login: str) -> str:
        if self.scheme == "memory":
            return "memory://"
        host = self.host.replace("%", "%25")
        host = f"[{host}]" if ":" in host else host
        vhost = "" if self.vhost == "/" else quote(self.vhost, safe="")
        query = "&".join(f"{key}={quote(text)}" for key, text in self.options.items())
        return (
            f"{self.scheme}://{login}{host}:{self.port}"
            f"/{vhost}{'?' if query else ''}{query}"
        )

    def __repr__(self) -> str:
        return f"<BrokerURL {self}>"


MEMORY = BrokerURL("memory")


def parse_broker_urls(value: object, key: str) -> tuple[BrokerURL, ...]:
    """Parse one or several URLs: a str, separated by ``;``, or a list of them.

    A URL with several hosts, separated by commas, counts as one URL for each of them.

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
        url
        for name, text in _numbered(key, texts)
        for url in _URLParser(text, name, ambiguous).parse()
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


class _Parts(NamedTuple):
    """A URL's parts, still encoded. https://www.rfc-editor.org/rfc/rfc3986#appendix-B"""

    scheme: str
    authority: str
    path: str
    query: str


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

    def parse(self) -> list[BrokerURL]:
        parts = self.split()
        if parts.scheme == "memory":
            return [MEMORY]
        options = self.options(parts)
        username, password = self.credentials(parts.authority, options)
        vhost = self.vhost(parts.path)
        return [
            BrokerURL(parts.scheme, host, port, vhost, username, password, options)
            for host, port in self.addresses(parts.authority, _PORTS[parts.scheme])
        ]

    def split(self) -> _Parts:
        self.check_characters()
        found = re.fullmatch(r"(\w+)://([^/?]*)([^?]*)\??(.*)", self.text)
        if not found:
            self.fail_scheme()
        scheme, authority, path, query = found.groups()
        parts = _Parts(self.scheme(scheme.lower()), authority, path, query)
        if parts.scheme == "memory" and any(parts[1:]):
            self.fail("has a host or more, which memory:// can't have: write memory://")
        if "@" in path + query:
            self.fail("has a / or ? in the user name or the password: write %2F, %3F")
        return parts

    def check_characters(self) -> None:
        if not self.text:
            self.fail("is empty: write a URL, or leave it out")
        if not self.text.isprintable() or " " in self.text:
            self.fail('contains whitespace or control characters: write " " as %20')
        if re.search(r"%(?![0-9A-Fa-f]{2})|%00", self.text):
            self.fail("contains a % without two hexadecimal digits, or %00: write %25")
        if re.search(r",\w+://", self.text):
            self.fail('has a comma before another URL: separate whole URLs by ";"')
        # An "@" or "/" in a password shifts the boundaries between the parts.
        if "@" in self.text.partition("@")[2] or "#" in self.text:
            self.fail(
                "contains a second @, or a #: in the user name and the password, write"
                " @ as %40, # as %23, / as %2F"
            )

    def scheme(self, scheme: str) -> str:
        if scheme in ("http", "https"):
            self.fail(
                "is the address of RabbitMQ's management UI: write the broker's own,"
                " amqp://user:password@host:5672/vhost"
            )
        scheme = _SYNONYMS.get(scheme, scheme)
        return scheme if scheme in (*_PORTS, "memory") else self.fail_scheme()

    def fail_scheme(self) -> NoReturn:
        self.fail("must begin with amqp://, amqps:// or memory://")

    def credentials(
        self, authority: str, options: Mapping[str, str]
    ) -> tuple[str, str]:
        """The user and the password, which a setting may have instead: ``""``."""
        userinfo, at, _ = authority.rpartition("@")
        if options.get("auth_mechanism", "").lower() == "external":
            return self.no_credentials(at, options)
        if userinfo == "guest" or not at:
            # Celery's documentation writes "guest@"; the password is well known.
            return "guest", "guest"
        username, colon, password = userinfo.partition(":")
        if not username or (colon and not password):
            self.fail(
                "has a user name or a password without the other: write user:password@"
            )
        return self.decode(username), self.decode(password)

    def no_credentials(self, at: str, options: Mapping[str, str]) -> tuple[str, str]:
        """The certificate says who the user is."""
        if "certfile" not in options:
            self.fail("has auth_mechanism=external without certfile: add certfile=…")
        if at:
            self.fail(
                "has a user, but also auth_mechanism=external, which takes the user"
                " from the certificate: remove one"
            )
        return "", ""

    def addresses(self, authority: str, default_port: int) -> list[tuple[str, int]]:
        texts = authority.rpartition("@")[2].split(",")
        return [self.address(text, default_port) for text in texts]

    def address(self, text: str, default_port: int) -> tuple[str, int]:
        match = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?", text)
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
        # With the zone of a link-local one: https://www.rfc-editor.org/rfc/rfc6874
        try:
            return str(IPv6Address(unquote(address)))
        except ValueError:
            self.fail("has something in [] that is not an IPv6 address")

    def port(self, port: str) -> int:
        if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            self.fail("has a port that is not a number from 1 to 65535")
        return int(port)

    def vhost(self, path: str) -> str:
        # Celery's own name for "/" is the second "/" of "//".
        if path in ("", "/", "//"):
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

    def options(self, parts: _Parts) -> Mapping[str, str]:
        options: dict[str, str] = {}
        for pair in filter(None, parts.query.split("&")):
            name, _, text = pair.partition("=")
            self.check(problem_with_name(name, parts.scheme))
            if name in options:
                self.fail(f"has {name} twice: write it once")
            options[name] = self.decode(text)
            self.check(problem_with_value(name, options[name]))
        if "keyfile" in options and "certfile" not in options:
            self.fail("has keyfile without certfile: add certfile=…")
        return MappingProxyType(options)

    def check(self, problem: str) -> None:
        if problem:
            self.fail(problem)


_KNOWN_SCHEME = re.compile(r"(?:(?:py)?amqps?|https?|memory)://")
_CLEAR_URL = re.compile(
    r"[^@/?#]+@(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+(?:%25[\w.-]+)?\])(?:[:/?][^@]*)?",
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
