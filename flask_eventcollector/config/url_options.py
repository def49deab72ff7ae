"""Checks the query parameters of a broker's URL."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

#: RabbitMQ's names: https://www.rabbitmq.com/docs/uri-query-parameters
_TLS_FILES = ("cacertfile", "certfile", "keyfile")
TLS_OPTIONS = (*_TLS_FILES, "verify", "server_name_indication")

#: The minimum and maximum of each number, with its unit.
_NUMBERS: Mapping[str, tuple[int, int, str]] = {
    "heartbeat": (1, 65_535, "seconds"),
    # Some clients count in seconds, so a small number is likely to be one of these.
    "connection_timeout": (100, 999_999_999, "milliseconds"),
    "channel_max": (1, 65_535, "channels"),
    "frame_max": (4_096, 131_072, "bytes"),
}
_OPTIONS = (*TLS_OPTIONS, *_NUMBERS, "auth_mechanism")

_USELESS = "leave it out, since it has no use here"

#: Names that other clients use, by the cure: pika, kombu, aiormq, amqplib, bunny, and
#: RabbitMQ's Erlang client.
_CURES: Mapping[str, tuple[str, ...]] = {
    "write amqps:// instead": ("ssl", "tls", "use_ssl"),
    "write amqps:// with cacertfile, certfile and keyfile": ("ssl_options",),
    "write cacertfile": ("cafile", "capath", "cadata", "ca_certs", "ssl_ca_certs"),
    "write certfile": ("ssl_certfile", "tls_cert"),
    "write keyfile": ("ssl_keyfile", "tls_key"),
    "write verify=verify_none": ("no_verify_ssl", "cert_reqs", "ssl_cert_reqs"),
    "write server_name_indication": ("server_hostname", "sni"),
    "write heartbeat, in seconds": (
        "heartbeat_interval",
        "heartbeat_timeout",
        "requested_heartbeat",
    ),
    "write connection_timeout, in milliseconds": (
        "connect_timeout",
        "socket_timeout",
        "stack_timeout",
        "timeout",
    ),
    "write channel_max": ("channelMax",),
    "write frame_max": ("frameMax",),
    "write it as the path of the URL": ("vhost", "virtual_host"),
    "set EVENTCOLLECTOR_KEYFILE_PASSWORD instead": ("password", "passphrase"),
    "set EVENTCOLLECTOR_EXCHANGE instead": ("exchange",),
    "set EVENTCOLLECTOR_RETRY_DELAY instead": (
        "connection_attempts",
        "max_retries",
        "reconnect_interval",
        "retry_delay",
    ),
    "leave it out, since events wait while the broker is blocked": (
        "blocked_connection_timeout",
    ),
    _USELESS: (
        "backpressure_detection",
        "client_properties",
        "connection_name",
        "depth",
        "fail_fast",
        "fail_if_no_peer_cert",
        "failover_strategy",
        "locale",
        "login_method",
        "name",
        "publisher_confirms",
        "tcp_options",
    ),
}


def problem_with_name(name: str, scheme: str) -> str:
    """Why the parameter *name* can't be used; ``""``: it can."""
    foreign = _FOREIGN.get(_simplified(name)) if name not in _OPTIONS else None
    if foreign:
        return "has {}, which is another client's: {}".format(*foreign)
    if name not in _OPTIONS:
        # Its name is not shown, since it may be the rest of a password.
        return f"has an unknown parameter: the known ones are {', '.join(_OPTIONS)}"
    if name in TLS_OPTIONS and scheme != "amqps":
        return f"has {name}, which is for TLS only: write amqps://"
    return ""


def problem_with_value(name: str, text: str) -> str:
    """Why *text*, which may be confidential, is invalid; ``""``: it is valid."""
    if not text:
        return f"has {name} without a value: add one, or leave it out"
    if name in _TLS_FILES and not os.path.isfile(text):
        return f"names a {name} that does not exist, relative to {os.getcwd()}"
    if name == "verify" and text not in ("verify_peer", "verify_none"):
        return "has an unknown verify: write verify_peer or verify_none"
    if name == "auth_mechanism" and text.lower() not in ("plain", "external"):
        return "has an unknown auth_mechanism: write external, or leave it out"
    if name in _NUMBERS and not _is_in_range(text, *_NUMBERS[name][:2]):
        least, most, unit = _NUMBERS[name]
        return (
            f"has a {name} that is not a whole number of {unit} from {least} to {most}"
        )
    return ""


def _is_in_range(text: str, least: int, most: int) -> bool:
    return bool(re.fullmatch("[0-9]{1,9}", text)) and least <= int(text) <= most


def _simplified(name: str) -> str:
    return re.sub("[-_]", "", name).lower()


_FOREIGN = {_simplified(n): (n, cure) for cure, names in _CURES.items() for n in names}
