"""What Sentry knows about the current trace. Loaded if the app has loaded it."""

from __future__ import annotations

from collections.abc import Set

import sentry_sdk

from ...events import Event
from ..conventions import destination


def is_in_use() -> bool:
    """Whether the app has set up Sentry."""
    return sentry_sdk.is_initialized()


def carrier_of(event: Event, own: Set[str]) -> dict[str, str]:
    """The headers that say in which span *event* is being enqueued.

    In a transaction, that is a new span ``queue.publish``. There are no headers if
    the caller has given some: they are not changed.

    https://docs.sentry.io/platforms/python/tracing/instrumentation/custom-instrumentation/queues-module/

    :param own: the names of the caller's headers, in lower case.
    """
    if "sentry-trace" in own:
        return {}
    if sentry_sdk.get_current_span() is None:
        return _headers()
    name = destination(event.target)
    with sentry_sdk.start_span(op="queue.publish") as span:
        # Its argument has had different names.
        span.description = name
        span.set_data("messaging.message.id", event.id)
        span.set_data("messaging.destination.name", name)
        span.set_data("messaging.message.body.size", len(event.body))
        return _headers()


def _headers() -> dict[str, str]:
    found = {
        "sentry-trace": sentry_sdk.get_traceparent(),
        "baggage": sentry_sdk.get_baggage(),
    }
    return {name: value for name, value in found.items() if value}
