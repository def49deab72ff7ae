"""The exceptions that the library raises."""

from __future__ import annotations


class EventCollectorError(Exception):
    """The base class of this library's exceptions."""


class ConfigurationError(EventCollectorError):
    """A setting is invalid or missing. The message names the setting and the cure."""


class EncodingError(EventCollectorError, ValueError):
    """A payload can't be encoded as JSON, or is too large.

    The message says where in the payload, and why. It never contains a value.
    """


class BacklogFull(EventCollectorError):
    """An event was rejected at a limit: ``EVENTCOLLECTOR_OVERFLOW`` is ``"reject"``.

    ``enqueue_event`` raises it, and no collector has the event. The limits are
    ``EVENTCOLLECTOR_MAX_EVENTS`` and ``EVENTCOLLECTOR_MAX_BYTES``.
    """
