"""The examples of docs/tracing.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import Mock

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExportResult
from pika import BasicProperties

from tests.docs.modules import imported
from tests.docs.reader import find_one, runs

PAGE = "docs/tracing.md"
SHOP, CONSUMER, SENTRY = (
    find_one(page=PAGE, file=name)
    for name in ("shop.py", "consumer.py", "sentry_consumer.py")
)
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TracerProvider]]:
    """The providers that an example sets up, for as long as the test takes."""
    found: list[TracerProvider] = []

    def set_up(provider: TracerProvider) -> None:
        found.append(provider)
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

    monkeypatch.setattr(trace, "set_tracer_provider", set_up)
    monkeypatch.setenv("FLASK_TESTING", "true")
    yield found
    for provider in found:
        provider.shutdown()


@runs(SHOP)
def test_a_request_has_a_span_with_a_child(
    providers: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, ReadableSpan] = {}

    def export(_: object, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        found.update((span.name, span) for span in spans)
        return SpanExportResult.SUCCESS

    monkeypatch.setattr(ConsoleSpanExporter, "export", export)
    with imported(SHOP) as (shop,):
        assert shop.app.test_client().post("/orders/7").text == "created"
        (event,) = shop.events.broker.events("orders.created")
        shop.events.close(1)
    providers[0].force_flush()
    request = found["POST /orders/<int:order_id>"].context
    parent = found["publish orders.created"].parent
    assert request is not None
    assert parent is not None
    assert (parent.trace_id, parent.span_id) == (request.trace_id, request.span_id)
    assert f"-{request.span_id:016x}-" in event.headers["traceparent"]


@runs(CONSUMER)
@runs(SENTRY)
@pytest.mark.parametrize("example", [CONSUMER, SENTRY], ids=["otel", "sentry"])
def test_a_consumer_goes_on_in_the_trace(
    example: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    headers = {
        "traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01",
        "sentry-trace": f"{TRACE_ID}-b7ad6b7169203331-1",
    }
    properties = BasicProperties(message_id="7", headers=headers)
    found: list[str] = []

    def note(*_: object) -> None:
        import sentry_sdk

        current = trace.get_current_span().get_span_context().trace_id
        span = sentry_sdk.get_current_span()
        found.append(f"{current:032x}" if span is None else span.trace_id)

    with imported(example) as (consumer,):
        monkeypatch.setattr(consumer, "print", note, raising=False)
        channel = Mock()
        consumer.on_message(channel, Mock(delivery_tag=3), properties, b"{}")
    assert found == [TRACE_ID]
    channel.basic_ack.assert_called_once_with(3)
