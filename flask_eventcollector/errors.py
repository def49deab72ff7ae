"""The exceptions that the library raises."""

from __future__ import annotations


class EventCollectorError(Exception):
    """The base of every exception that this library defines."""


class ConfigurationError(EventCollectorError):
    """A setting is wrong or missing; the message names it and the cure."""


class EncodingError(EventCollectorError, ValueError):
    """A payload can't be sent as JSON; the message says where and why."""


class BacklogFull(EventCollectorError):
    """``EVENTCOLLECTOR_OVERFLOW`` is ``"reject"`` and a limit is reached."""
