"""The trace context of events, and the spans of their attempts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import flask
import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.trace import SpanProcessor
from pika import BasicProperties

from flask_eventcollector import EventCollector, Outcome, events_published, received
from flask_eventcollector.brokers.rabbitmq.broker import RabbitMQBroker
from flask_eventcollector.config.broker_url import parse_broker_urls
from flask_eventcollector.delivery.observations import Happened, Observation
from flask_eventcollector.events import Stats
from flask_eventcollector.monitoring.tracing.spans import MOST_LINKS, SpanObserver
from tests.helpers import DEADLINE, Shop, in_thread, open_shop, wait_until
from tests.parts import make_event
from tests.spans import Spans, published, recorded_spans

NOT_SENT = {"error.type": "not_sent", "eventcollector.outcome": "not_sent"}


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded_spans() as spans:
        yield spans


@pytest.fixture
def tracer(spans: Spans) -> trace.Tracer:
    """The application's."""
    return trace.get_tracer("app")


def traceparent(span: trace.Span) -> str:
    """The header that names *span*."""
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def sent_headers(shop: Shop, queue: str = "q") -> list[dict[str, Any]]:
    """The headers that the broker has got, in order."""
    return [dict(event.headers) for event in shop.broker.events(queue)]


# The headers.


def test_an_event_says_in_which_span_it_was_enqueued(tracer: trace.Tracer) -> None:
    with open_shop() as shop:
        with tracer.start_as_current_span("work") as span:
            shop.events.enqueue_event(1, "q", headers={"x": 1})
        shop.events.publish()
        assert sent_headers(shop) == [{"traceparent": traceparent(span), "x": 1}]


def test_state_and_baggage_go_along(spans: Spans) -> None:
    carrier = {
        "traceparent": f"00-{7:032x}-{8:016x}-01",
        "tracestate": "vendor=1",
        "baggage": "shop=berlin",
    }
    token = context.attach(propagate.extract(carrier))
    try:
        with open_shop() as shop:
            shop.enqueue(1)
            shop.events.publish()
            assert sent_headers(shop) == [carrier]
    finally:
        context.detach(token)


def test_outside_of_spans_there_is_no_header(spans: Spans) -> None:
    with open_shop() as shop:
        shop.enqueue(1)
        shop.events.publish()
        assert sent_headers(shop) == [{}]


def test_headers_of_the_caller_are_not_changed(tracer: trace.Tracer) -> None:
    own = {"traceparent": f"00-{7:032x}-{8:016x}-00", "x": 1}
    with open_shop(CREATE_SPANS=True) as shop:
        token = context.attach(baggage.set_baggage("shop", "berlin"))
        with tracer.start_as_current_span("work") as span:
            shop.events.enqueue_event(1, "q", headers=own)
            shop.events.enqueue_event(2, "other", headers={"baggage": "own=1"})
        context.detach(token)
        shop.events.publish()
        assert sent_headers(shop) == [own]
        (headers,) = sent_headers(shop, "other")
        assert headers["baggage"] == "own=1"
        assert traceparent(span)[:36] == headers["traceparent"][:36]


def test_headers_of_the_caller_are_known_in_upper_case_too(
    tracer: trace.Tracer, spans: Spans
) -> None:
    own = {"Traceparent": f"00-{7:032x}-{8:016x}-01", "Baggage": "own=1"}
    with open_shop(TRACING="links", CREATE_SPANS=True) as shop:
        token = context.attach(baggage.set_baggage("shop", "berlin"))
        with tracer.start_as_current_span("work"):
            shop.events.enqueue_event(1, "q", headers=own)
            shop.events.publish()
        context.detach(token)
        assert sent_headers(shop) == [own]
    assert [span["links"] for span in spans.ours()] == [[f"{7:032x}"]]


def test_the_context_counts_against_the_limits(tracer: trace.Tracer) -> None:
    with open_shop(TRACING=False) as shop:
        before = [
            shop.events.enqueue_event(1, "q", headers=h) for h in (None, {"x": 1})
        ]
    with open_shop() as shop, tracer.start_as_current_span("work"):
        after = [shop.events.enqueue_event(1, "q", headers=h) for h in (None, {"x": 1})]
    # A table has four bytes, a field its name and its value with their lengths.
    growth = [new.size - old.size for old, new in zip(before, after, strict=True)]
    assert growth == [4 + 1 + 11 + 5 + 55, 1 + 11 + 5 + 55]


def test_a_captured_event_shows_its_context(tracer: trace.Tracer) -> None:
    with open_shop() as shop, shop.events.capture() as captured:
        with tracer.start_as_current_span("work") as span:
            shop.enqueue(1)
        shop.events.publish()
        captured.assert_published("q", headers={"traceparent": traceparent(span)})
        assert traceparent(span) in repr(captured.published[0])


def test_a_consumer_goes_on_in_the_trace(tracer: trace.Tracer, spans: Spans) -> None:
    with open_shop() as shop:
        with tracer.start_as_current_span("work"):
            shop.enqueue(1)
        shop.events.publish()
        (event,) = shop.broker.events("q")
    properties = BasicProperties(message_id=event.id, headers={**event.headers})
    parent = propagate.extract(received(properties).headers)
    with tracer.start_as_current_span("process q", parent):
        pass
    work, process = (s for s in spans.all() if s.name in ("work", "process q"))
    assert (process.parent and process.parent.span_id) == work.context.span_id


def test_baggage_alone_goes_along_unless_the_caller_has_some(spans: Spans) -> None:
    token = context.attach(baggage.set_baggage("shop", "berlin"))
    with open_shop() as shop:
        shop.events.enqueue_event(1, "q")
        shop.events.enqueue_event(2, "q", headers={"baggage": "own=1"})
        shop.events.publish()
        assert sent_headers(shop) == [{"baggage": "shop=berlin"}, {"baggage": "own=1"}]
    context.detach(token)


def test_a_caller_may_give_any_value_as_a_header(spans: Spans) -> None:
    with open_shop() as shop:
        shop.events.enqueue_event(1, "q", headers={"traceparent": 7})
        shop.events.publish()
    (span,) = spans.ours()
    assert span["links"] == []


def test_a_propagator_that_fails_costs_the_context_only(
    tracer: trace.Tracer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("secret")

    monkeypatch.setattr(propagate, "inject", fail)
    with open_shop() as shop, tracer.start_as_current_span("work"):
        shop.enqueue(1, 2)
        shop.events.publish()
        assert sent_headers(shop) == [{}, {}]
    lines = [r for r in caplog.records if r.levelno >= logging.WARNING]
    (line,) = [
        r for r in lines if r.__dict__["eventcollector_event"] != "broker_memory"
    ]
    text = "An event was enqueued without its trace context, or its span"
    assert line.getMessage() == text
    assert line.__dict__["eventcollector_reason"] == "LookupError"


def test_baggage_that_no_header_can_have_costs_the_baggage_only(
    tracer: trace.Tracer,
) -> None:
    token = context.attach(baggage.set_baggage("name", "half an emoji: \ud83d"))
    try:
        with open_shop() as shop, tracer.start_as_current_span("work") as span:
            shop.enqueue(1)
            shop.events.publish()
            assert sent_headers(shop) == [{"traceparent": traceparent(span)}]
    finally:
        context.detach(token)


# Spans of a request.


def instrumented(*, first: bool) -> tuple[flask.Flask, EventCollector]:
    """An app with two instrumentations, Flask's one *first* or last."""
    app = flask.Flask("shop")
    app.config["TESTING"] = True
    events = EventCollector()
    instrument: Any = FlaskInstrumentor.instrument_app
    for step in (
        (instrument, events.init_app) if first else (events.init_app, instrument)
    ):
        step(app)

    @app.post("/orders")
    def create() -> str:
        events.enqueue_event(1, "orders.created")
        events.enqueue_event(2, "orders.created")
        events.enqueue_event(3, "mail", exchange="shop", correlation_id="7")
        return "created"

    return app, events


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_request_has_a_span_for_each_target(spans: Spans, first: bool) -> None:
    app, events = instrumented(first=first)
    with events.capture() as captured:
        assert app.test_client().post("/orders").status_code == 200
    events.close(1)
    batch = {"messaging.batch.message_count": 2}
    mail = {
        "messaging.destination.name": "shop:mail",
        "messaging.rabbitmq.destination.routing_key": "mail",
        "messaging.message.id": captured.published[-1].id,
        "messaging.message.conversation_id": "7",
    }
    assert spans.ours() == [
        published("orders.created", parent="POST /orders", attributes=batch),
        published("shop:mail", parent="POST /orders", attributes=mail),
    ]


def test_with_links_a_request_is_not_the_parent(
    tracer: trace.Tracer, spans: Spans
) -> None:
    with open_shop(TRACING="links") as shop, tracer.start_as_current_span("request"):
        shop.enqueue(1, 2)
        shop.events.publish()
    batch = {"messaging.batch.message_count": 2}
    assert spans.ours() == [published(links=["request"], attributes=batch)]


def test_each_event_has_a_span_if_a_setting_says_so(
    tracer: trace.Tracer, spans: Spans
) -> None:
    with open_shop(CREATE_SPANS=True) as shop:
        with tracer.start_as_current_span("request"):
            first = shop.events.enqueue_event(1, "q", correlation_id="7")
            second = shop.events.enqueue_event(2, "q")
            shop.events.publish()
        headers = sent_headers(shop)
    about = {
        "messaging.operation.name": "create",
        "messaging.operation.type": "create",
        "eventcollector.attempt": None,
        "eventcollector.outcome": None,
    }
    asked = {"messaging.message.conversation_id": "7"}
    created = {"name": "create q", "kind": "PRODUCER", "parent": "request"}
    batch = {"messaging.batch.message_count": 2}
    assert spans.ours() == [
        published(
            attributes={**about, "messaging.message.id": first.id, **asked}, **created
        ),
        published(attributes={**about, "messaging.message.id": second.id}, **created),
        published(parent="request", links=["create q", "create q"], attributes=batch),
    ]
    ids = {f"{s.context.span_id:016x}" for s in spans.all() if s.name == "create q"}
    assert {h["traceparent"].split("-")[2] for h in headers} == ids


def test_without_tracing_there_is_neither_header_nor_span(
    tracer: trace.Tracer, spans: Spans
) -> None:
    with open_shop(TRACING=False, CREATE_SPANS=True) as shop:
        with tracer.start_as_current_span("request"):
            shop.enqueue(1)
            shop.events.publish()
        assert sent_headers(shop) == [{}]
    assert spans.ours() == []


def test_the_api_alone_makes_no_thread() -> None:
    with open_shop() as shop:
        shop.enqueue(1)
        shop.events.publish()
        delivery = shop.extensions["eventcollector"].delivery()
        assert delivery._observations is None


# Spans of an outage.


def test_an_outage_has_a_span_for_each_request_and_one_for_its_end(
    tracer: trace.Tracer, spans: Spans
) -> None:
    with open_shop() as shop:
        shop.faults.go_down()
        ids = []
        for name in ("first", "second"):
            with tracer.start_as_current_span(name):
                ids.append(shop.events.enqueue_event(1, "q").id)
                shop.events.publish()
        shop.faults.come_up()
        assert shop.events.flush(5)
    status = ("ERROR", "the broker is down: it was taken down")
    attributes = [
        {**NOT_SENT, "eventcollector.attempt": 0, "messaging.message.id": id}
        for id in ids
    ]
    batch = {"messaging.batch.message_count": 2}
    assert spans.ours() == [
        published(parent="first", attributes=attributes[0], status=status),
        published(parent="second", attributes=attributes[1], status=status),
        published(links=["first", "second"], attributes=batch),
    ]


@pytest.mark.parametrize("outcome", ["unknown", "nacked", "returned"])
def test_a_retry_has_a_trace_of_its_own(
    tracer: trace.Tracer, spans: Spans, outcome: str
) -> None:
    with open_shop(RETRY_DELAY=0.01) as shop:
        shop.faults.fail_next(Outcome(outcome), hold=True)
        with tracer.start_as_current_span("request"):
            id = shop.events.enqueue_event(1, "q").id
            shop.events.publish()
        (problem,) = shop.events.publish().problems or shop.events.stats().problems
        assert shop.events.flush(5)
    about = {"messaging.message.id": id}
    failed = {**about, "error.type": outcome, "eventcollector.outcome": outcome}
    assert spans.ours() == [
        published(
            parent="request", attributes=failed, status=("ERROR", problem.reason)
        ),
        published(links=["request"], attributes={**about, "eventcollector.attempt": 2}),
    ]


def test_what_nobody_waits_for_has_a_trace_of_its_own(
    tracer: trace.Tracer, spans: Spans
) -> None:
    with open_shop() as shop:

        def publish() -> None:
            # In a thread of the library, nothing waits.
            from flask_eventcollector.delivery.threads import note_own_thread

            note_own_thread()
            with tracer.start_as_current_span("receiver"):
                shop.enqueue(1, 2)
                shop.events.publish()

        in_thread(publish)
    batch = {"messaging.batch.message_count": 2}
    assert spans.ours() == [published(links=["receiver"], attributes=batch)]


def test_a_span_has_no_more_links_than_the_sdk_keeps(
    tracer: trace.Tracer, spans: Spans
) -> None:
    with open_shop(TRACING="links") as shop, shop.events.auto_publish():
        for _ in range(2 * MOST_LINKS + 5):
            with tracer.start_as_current_span("work"):
                shop.enqueue(1, 2)
    links = [len(span["links"]) for span in spans.ours()]
    counts = [s["attributes"]["messaging.batch.message_count"] for s in spans.ours()]
    assert sorted(links) == [5, MOST_LINKS, MOST_LINKS]
    assert sum(counts) == 2 * (2 * MOST_LINKS + 5)


def test_an_event_that_no_queue_gets_is_sent(
    tracer: trace.Tracer, spans: Spans
) -> None:
    settings: dict[str, Any] = {
        "EXCHANGES": {"shop": {"type": "topic", "unrouted": "discard"}},
        "QUEUES": {"other": {"bind": ["shop:other"]}},
        "EXCHANGE": "shop",
    }
    with open_shop(**settings) as shop:
        id = shop.events.enqueue_event(1, "q").id
        shop.events.publish()
    attributes = {
        "messaging.rabbitmq.destination.routing_key": "q",
        "messaging.message.id": id,
        "eventcollector.outcome": "unrouted",
    }
    assert spans.ours() == [published("shop:q", attributes=attributes)]


def test_a_span_is_reported_while_the_process_goes_on(spans: Spans) -> None:
    with open_shop() as shop:
        shop.enqueue(1)
        shop.events.publish()
        wait_until(spans.ours, "a span")


# Threads.


def test_threads_without_user_code_are_not_instrumented(tracer: trace.Tracer) -> None:
    found: dict[str, bool] = {}

    def note(self: RabbitMQBroker) -> None:
        found["I/O"] = is_instrumentation_enabled()
        self._is_closing = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RabbitMQBroker, "_keep_connected", note)
        urls = parse_broker_urls("amqp://localhost", "url")
        broker = RabbitMQBroker(urls, heartbeat=60, delay=float, name="shop")
        broker._thread.start()
        assert broker.close(DEADLINE)
    assert found == {"I/O": False}
    assert is_instrumentation_enabled()


def test_receivers_are_instrumented_in_every_thread(tracer: trace.Tracer) -> None:
    found: dict[str, bool] = {}

    def receive(sender: object, **_: object) -> None:
        name = threading.current_thread().name
        found[name.rpartition("-")[0]] = is_instrumentation_enabled()

    with open_shop() as shop, events_published.connected_to(receive, sender=shop):
        shop.faults.go_down()
        shop.enqueue(1)
        shop.events.publish()
        shop.faults.come_up()
        wait_until(lambda: found, "a signal")
    assert found == {"eventcollector-flusher": True}


# The observer by itself.


def confirmed(at: float, *payloads: Any) -> Observation:
    """What it is told of events that were sent half a second before."""
    events = [make_event(payload, "q") for payload in payloads]
    return Observation(Happened.CONFIRMED, events, at, attempt=1, since_sent=0.5)


def test_a_span_has_the_times_of_its_attempt(spans: Spans) -> None:
    observer = SpanObserver()
    observer.observe([confirmed(100.5, 1), confirmed(101.25, 2)], Stats())
    observer.close()
    (span,) = spans.all()
    assert (span.start_time, span.end_time) == (100 * 10**9, 101_250_000_000)


@pytest.mark.parametrize("host", ["rabbit", "::1"], ids=["name", "address"])
def test_a_span_names_the_node_of_the_broker(spans: Spans, host: str) -> None:
    observer = SpanObserver()
    observer.observe([confirmed(100.5, 1)._replace(node=f"{host}:5672")], Stats())
    observer.close()
    (span,) = spans.ours()
    assert span["attributes"]["server.address"] == host
    assert span["attributes"]["server.port"] == 5672


class FailingProcessor(SpanProcessor):
    """An app's own, which fails for the span *name*."""

    def __init__(self, method: str, name: str = "publish bad") -> None:
        self.name = name
        setattr(self, method, self.fail)

    def fail(self, span: Any, **_: object) -> None:
        if span.name == self.name:
            raise LookupError("secret")


@pytest.mark.parametrize("method", ["on_start", "on_end"])
def test_an_event_whose_own_span_fails_belongs_to_the_current_one(
    spans: Spans, tracer: trace.Tracer, method: str
) -> None:
    spans.provider.add_span_processor(FailingProcessor(method, "create q"))
    with open_shop(CREATE_SPANS=True) as shop:
        with tracer.start_as_current_span("work") as span:
            shop.enqueue(1)
            shop.events.publish()
        assert sent_headers(shop) == [{"traceparent": traceparent(span)}]


@pytest.mark.parametrize("method", ["on_start", "on_end"])
def test_a_span_processor_that_fails_costs_no_other_span(
    spans: Spans, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    spans.provider.add_span_processor(FailingProcessor(method))
    with open_shop() as shop, shop.events.auto_publish():
        for queue in ("bad", "good", "fine"):
            shop.events.enqueue_event(1, queue)

    names = {span["name"] for span in spans.ours()}
    assert names >= {"publish good", "publish fine"}
    lines = [r.getMessage() for r in caplog.records if "Observer" in r.getMessage()]
    assert lines == ["Observer failed: SpanObserver"]


def test_it_costs_none_of_those_that_a_full_batch_reports(spans: Spans) -> None:
    spans.provider.add_span_processor(FailingProcessor("on_end"))
    observer = SpanObserver()
    contexts = [f"00-{7:032x}-{n + 1:016x}-01" for n in range(MOST_LINKS + 1)]
    events = [
        make_event(1, queue, headers={"traceparent": context})
        for queue in ("bad", "good")
        for context in contexts
    ]
    with pytest.raises(LookupError):
        observer.observe([confirmed(100.5)._replace(events=events)], Stats())
    with pytest.raises(LookupError):
        observer.close()
    good = [span for span in spans.ours() if span["name"] == "publish good"]
    assert sorted(len(span["links"]) for span in good) == [1, MOST_LINKS]


def test_confirms_that_arrive_separately_make_one_span(spans: Spans) -> None:
    observer = SpanObserver()
    observer.observe([confirmed(100.5, 1)], Stats())
    assert spans.all() == []
    observer.observe([confirmed(101.5, 2, 3)], Stats())
    (span,) = spans.all()
    # What comes later is of another batch.
    observer.observe([confirmed(102.5, 4)], Stats())
    observer.close()
    counts = [dict(s.attributes or {}) for s in spans.all()]
    assert [c.get("messaging.batch.message_count") for c in counts] == [3, None]
    assert span.end_time == 101_500_000_000
