"""Reads the values of options."""

from __future__ import annotations

import re

import click

from ..messages.amqp_fields import check_name

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
