"""What OpenTelemetry knows about the current trace. Loaded if the app has loaded it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import lru_cache
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import DefaultGetter

from ...events import Event
from ..conventions import SCHEMA, SCOPE, about_target, destination, operation


class _LowerCase(DefaultGetter):
    """Finds a header among names in lower case."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        return super().get(carrier, key.lower())


_LOWER_CASE = _LowerCase()


def makes_spans() -> bool:
    """Whether the app has set up a tracer provider; the API alone makes no spans."""
    nothing = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
    return not isinstance(trace.get_tracer_provider(), nothing)


def tracer() -> trace.Tracer:
    """What makes our spans, by the app's tracer provider."""
    return _tracer_of(trace.get_tracer_provider())


@lru_cache(maxsize=1)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    # To make one takes longer than a span.
    return provider.get_tracer(SCOPE, schema_url=SCHEMA)


def current_trace() -> trace.SpanContext:
    """The span in which the calling thread is; not valid: in none."""
    return trace.get_current_span().get_span_context()


def trace_of(event: Event) -> trace.SpanContext:
    """The span in which *event* was enqueued, by its headers; not valid: in none."""
    headers = {name.lower(): value for name, value in event.headers.items()}
    try:
        found = propagate.extract(headers, Context(), _LOWER_CASE)
    except Exception:
        # The caller's own header may be anything.
        return trace.INVALID_SPAN_CONTEXT
    return trace.get_current_span(found).get_span_context()


def is_in_use() -> bool:
    """Whether the calling thread has a context, for example a span."""
    return bool(context.get_current())


def carrier_of(
    event: Event,
    own: Set[str],
    *,
    create_span: bool,
    report: Callable[[Exception], None],
) -> dict[str, str]:
    """The headers that say in which span *event* is being enqueued.

    There are none if the caller has given some: they are not changed.

    :param own: the names of the caller's headers, in lower case.
    :param report: is told what the app's own code in here raises, which costs no more
        than what it was to make.
    """
    current = context.get_current()
    names = {name.lower() for name in propagate.get_global_textmap().fields}
    if not (names - {"baggage"}).isdisjoint(own):
        return {}
    around = current
    if create_span:
        try:
            around = _created(event, current)
        except Exception as error:  # of a sampler, or a span processor
            report(error)
    carrier: dict[str, str] = {}
    try:
        propagate.inject(carrier, around)
    except Exception as error:  # of one of the propagators
        report(error)
    return carrier


def _created(event: Event, current: Context) -> Context:
    """Make the span ``create …`` of *event*; returns the context in it."""
    properties = {"messaging.message.id": event.id}
    if event.properties.correlation_id is not None:
        properties["messaging.message.conversation_id"] = (
            event.properties.correlation_id
        )
    span = tracer().start_span(
        f"create {destination(event.target)}",
        current,
        trace.SpanKind.PRODUCER,
        {**operation("create", "create"), **about_target(event.target), **properties},
    )
    span.end()
    return trace.set_span_in_context(span, current)
