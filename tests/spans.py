"""Records the spans of a test, to be compared whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

#: What all spans ``publish …`` say.
PUBLISH = {
    "messaging.operation.name": "publish",
    "messaging.operation.type": "send",
    "messaging.system": "rabbitmq",
}


class Spans:
    """The spans that have ended, by what they say."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[ReadableSpan]:
        """All of them, in the order of their beginnings."""
        found = self._exporter.get_finished_spans()
        return sorted(found, key=lambda span: span.start_time or 0)

    def ours(self) -> list[dict[str, Any]]:
        """Those of the library, whole."""
        spans = self.all()
        names = {_id(span.context): span.name for span in spans if span.context}
        ours = [span for span in spans if _scope(span)[0] == "flask_eventcollector"]
        return [_whole(span, names) for span in ours]


@contextmanager
def recorded_spans() -> Iterator[Spans]:
    """In the block, OpenTelemetry is set up as by an application."""
    provider = TracerProvider(shutdown_on_exit=False)
    spans = Spans(provider)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", provider)
        yield spans
    provider.shutdown()


def published(queue: str = "q", **changes: Any) -> dict[str, Any]:
    """A span of an event for *queue* that was confirmed, whole, with *changes*.

    An attribute with the value ``None`` is missing.
    """
    attributes: dict[str, Any] = {
        **PUBLISH,
        "messaging.destination.name": queue,
        "messaging.rabbitmq.destination.routing_key": queue,
        "eventcollector.attempt": 1,
        "eventcollector.outcome": "confirmed",
        **changes.pop("attributes", {}),
    }
    return {
        "name": f"publish {queue}",
        "kind": "CLIENT",
        "parent": None,
        "links": [],
        "attributes": {k: v for k, v in attributes.items() if v is not None},
        "status": ("UNSET", None),
        "scope": ("flask_eventcollector", "https://opentelemetry.io/schemas/1.44.0"),
        **changes,
    }


def _whole(span: ReadableSpan, names: dict[tuple[int, int], str]) -> dict[str, Any]:
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= span.end_time
    assert not span.events
    if span.parent is None:
        # A root is in no trace of another one.
        assert span.context is not None
        linked = {link.context.trace_id for link in span.links}
        assert span.context.trace_id not in linked
    return {
        "name": span.name,
        "kind": span.kind.name,
        "parent": span.parent and _named(span.parent, names),
        "links": [_named(link.context, names) for link in span.links],
        "attributes": dict(span.attributes or {}),
        "status": (span.status.status_code.name, span.status.description),
        "scope": _scope(span),
    }


def _scope(span: ReadableSpan) -> tuple[str, str | None]:
    scope = span.instrumentation_scope
    assert scope is not None
    return scope.name, scope.schema_url


def _named(context: SpanContext, names: dict[tuple[int, int], str]) -> str:
    """The name of a recorded span, or the trace id of one of another process."""
    return names.get(_id(context), f"{context.trace_id:032x}")


def _id(context: SpanContext) -> tuple[int, int]:
    return context.trace_id, context.span_id
