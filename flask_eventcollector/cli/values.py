"""Reads the values of options."""

from __future__ import annotations

import re

import click

from ..messages.amqp_fields import check_name
from .answering import Address

_MOST_PORT = 65_535
_UNITS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|min|h|d)", re.ASCII)


def seconds(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """A duration such as ``2h``, in seconds.

    :raises click.BadParameter: it is none.
    """
    if value is None:
        return None
    found = _DURATION.fullmatch(value)
    if found is None:
        raise click.BadParameter(
            f"{value!r} is not a duration: write a number with s, min, h or d, for"
            " example 2h"
        )
    return float(found[1]) * _UNITS[found[2]]


def address(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Address | None:
    """A port, or ``host:port``; without a host, only this machine can connect.

    :raises click.BadParameter: it is none.
    """
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not port.isdecimal() or int(port) > _MOST_PORT:
        raise click.BadParameter(
            f"{value!r} is not a port: write a number up to {_MOST_PORT}, for example"
            " 8080, or with the address to listen on, as in 0.0.0.0:8080"
        )
    return Address(host.strip("[]") or "127.0.0.1", int(port))


def queue_name(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """The name of a queue.

    :raises click.BadParameter: AMQP does not allow it.
    """
    if value is None:
        return None
    try:
        return check_name(value, "it")
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
