"""Gives each event headers that say which trace it belongs to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ...delivery.log import INTERVAL
from ...delivery.records import Kind, log_failure
from ...events import Event
from ...messages.amqp_fields import EMPTY_TABLE_BYTES, copy_table
from ...messages.encoding import EventEncoder


class TracingEncoder(EventEncoder):
    """An encoder whose events carry the context of the code that enqueues them.

    The context is in headers, so the backlog, the outbox and the broker treat it as
    they treat those of the caller, which take precedence. Nothing is done as long as
    the app has loaded neither OpenTelemetry nor Sentry.

    :param create_spans: whether each event has a span of its own.
    """

    def __init__(self, *, create_spans: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._create_spans = create_spans
        #: When the next failure may be logged.
        self._next_line = float("-inf")

    def encode(self, *args: Any, **options: Any) -> Event:
        """See :meth:`.EventEncoder.encode`. Context that can't be had is left out."""
        event = super().encode(*args, **options)
        # A CloudEvent has it by now, also among its attributes.
        return self._in_context(event) if self._cloudevents is None else event

    def _in_context(self, event: Event) -> Event:
        carrier = self._carrier(event)
        if not carrier:
            return event
        try:
            return _with_headers(event, carrier)
        except (TypeError, ValueError) as error:
            # A propagator has made what AMQP does not have.
            self._log(error)
            return event

    def _carrier(self, event: Event) -> dict[str, str]:
        """The headers with the context, by what the app has loaded."""
        carrier: dict[str, str] = {}
        if "opentelemetry.context" in sys.modules:
            from . import opentelemetry

            if self._create_spans or opentelemetry.is_in_use():
                carrier = self._call(
                    opentelemetry.carrier_of,
                    event,
                    _names(event),
                    create_span=self._create_spans,
                    report=self._log,
                )
        # Not version 1.
        if hasattr(sys.modules.get("sentry_sdk"), "is_initialized"):
            from . import sentry

            if sentry.is_in_use():
                found = self._call(sentry.carrier_of, event, _names(event))
                carrier = _merged(carrier, found)
        return carrier

    def _call(
        self, carrier_of: Callable[..., dict[str, str]], *args: Any, **options: Any
    ) -> dict[str, str]:
        """What *carrier_of* returns; nothing if the app's own code in there fails.

        That is a propagator, a sampler, or a span processor.
        """
        try:
            return carrier_of(*args, **options)
        except Exception as error:
            self._log(error)
            return {}

    def _log(self, error: Exception) -> None:
        if (now := time.monotonic()) >= self._next_line:
            self._next_line = now + INTERVAL
            log_failure(Kind.TRACING_FAILED, error)


def _merged(carrier: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    """Both: OpenTelemetry's and Sentry's baggage are items of one list."""
    both = [c["baggage"] for c in (carrier, other) if c.get("baggage")]
    return {**carrier, **other, **({"baggage": ",".join(both)} if both else {})}


def _names(event: Event) -> Set[str]:
    """The names of its headers, in lower case: people write them as in HTTP."""
    return {name.lower() for name in event.headers}


def _with_headers(event: Event, carrier: Mapping[str, str]) -> Event:
    """*event* with those headers of *carrier* that it does not have."""
    own = _names(event)
    new = {name: carrier[name] for name in carrier if name.lower() not in own}
    if not new:
        return event
    _, size = copy_table(new, "the trace context")
    if event.headers:
        # It is not a table of its own.
        size -= EMPTY_TABLE_BYTES
    headers = MappingProxyType({**new, **event.headers})
    return replace(event, headers=headers, size=event.size + size)
