"""Traces on RabbitMQ, with the instrumentation of pika."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from opentelemetry import trace
from opentelemetry.instrumentation.pika import PikaInstrumentor

from flask_eventcollector import EventCollector
from flask_eventcollector.config.broker_url import parse_broker_urls
from tests.helpers import DEADLINE
from tests.integration import load, scripts
from tests.rabbitmq import RabbitMQNode
from tests.spans import Spans, published, recorded_spans

#: Publishes in a span to a queue that is missing, so the events are kept on disk.
KILLED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
with trace.get_tracer("app").start_as_current_span("request") as span:
    with events.auto_publish():
        events.enqueue_event(1, "missing." + queue)
        events.enqueue_event(2, "missing." + queue)
context = span.get_span_context()
print(f"{context.trace_id:032x}", f"{context.span_id:016x}-{context.trace_flags:02x}")
sys.stdout.flush()
die_once_on_disk(2)
"""


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded_spans() as spans:
        yield spans


@pytest.fixture
def instrumented(spans: Spans) -> Iterator[None]:
    """As by ``opentelemetry-instrument``."""
    PikaInstrumentor().instrument(tracer_provider=spans.provider)
    yield
    PikaInstrumentor().uninstrument()


@pytest.fixture
def queue(rabbitmq: RabbitMQNode) -> Iterator[str]:
    name = rabbitmq.declare(load.fresh_queue())
    yield name
    rabbitmq.delete(name)


@pytest.mark.usefixtures("instrumented")
def test_the_instrumentation_of_pika_doubles_and_changes_nothing(
    spans: Spans, rabbitmq: RabbitMQNode, queue: str
) -> None:
    app = Flask("shop")
    app.config["EVENTCOLLECTOR_BROKER_URL"] = rabbitmq.url
    events = EventCollector(app)
    with trace.get_tracer("app").start_as_current_span("request") as span:
        event = events.enqueue_event(1, queue)
        assert events.publish(DEADLINE).complete
    events.close(5)

    (message,) = rabbitmq.get_all(queue)
    context = span.get_span_context()
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}"
    headers = {"traceparent": f"{parent}-{context.trace_flags:02x}"}
    assert message.properties.headers == headers
    attributes = {"messaging.message.id": event.id, **node(rabbitmq)}
    assert spans.ours() == [published(queue, parent="request", attributes=attributes)]
    assert [s.name for s in spans.all()] == ["request", f"publish {queue}"]


@pytest.mark.slow
def test_adopted_events_have_a_trace_of_their_own(
    spans: Spans, rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    name = load.fresh_queue()
    left = scripts.run(KILLED, rabbitmq.url, tmp_path, name)
    assert left.stdout, left.stderr
    trace_id, rest = left.stdout.split()
    queue = rabbitmq.declare(f"missing.{name}")

    app = Flask("app")
    app.config["EVENTCOLLECTOR_BROKER_URL"] = rabbitmq.url
    app.config["EVENTCOLLECTOR_BACKLOG"] = "spool"
    app.config["EVENTCOLLECTOR_SPOOL_DIR"] = str(tmp_path)
    events = EventCollector(app)
    assert events.flush(DEADLINE)
    events.close(5)

    messages = rabbitmq.get_all(queue)
    rabbitmq.delete(queue)
    rabbitmq.delete(name)
    header = {"traceparent": f"00-{trace_id}-{rest}", "x-possible-duplicate": True}
    assert [message.properties.headers for message in messages] == [header, header]
    attributes = {"messaging.batch.message_count": 2, **node(rabbitmq)}
    assert spans.ours() == [published(queue, links=[trace_id], attributes=attributes)]


def node(rabbitmq: RabbitMQNode) -> dict[str, str | int]:
    """The attributes with the broker's node."""
    (url,) = parse_broker_urls(rabbitmq.url, "url")
    return {"server.address": url.host, "server.port": url.port}
