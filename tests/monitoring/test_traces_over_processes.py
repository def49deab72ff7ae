"""Events that one process enqueues and another one sends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from flask import Flask
from opentelemetry import trace

from flask_eventcollector import EventCollector
from tests.helpers import wait_until
from tests.integration import scripts
from tests.outbox.test_relay import open_external, relaying_for
from tests.spans import Spans, published, recorded_spans
from tests.transactions.support import url_in

#: Leaves two events, and prints the id of the trace in which they were enqueued.
KILLED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
FaultInjector.of(events.broker).go_down()
with trace.get_tracer("app").start_as_current_span("request") as span:
    with events.auto_publish():
        events.enqueue_event(1, queue)
        events.enqueue_event(2, queue)
print(f"{span.get_span_context().trace_id:032x}", flush=True)
die_once_on_disk(2)
"""
BATCH = {"messaging.batch.message_count": 2}


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded_spans() as spans:
        yield spans


def test_a_dead_process_leaves_the_context_in_its_spool(
    spans: Spans, tmp_path: Path
) -> None:
    left = scripts.run(KILLED, "memory://", tmp_path, "q")
    app = Flask("app")
    app.config["EVENTCOLLECTOR_BROKER_URL"] = "memory://"
    app.config["EVENTCOLLECTOR_BACKLOG"] = "spool"
    app.config["EVENTCOLLECTOR_SPOOL_DIR"] = str(tmp_path)
    events = EventCollector(app)

    assert events.flush(20)

    events.close(5)
    trace_id = left.stdout.strip()
    assert len(trace_id) == 32, left.stderr
    assert spans.ours() == [published(links=[trace_id], attributes=BATCH)]


def test_a_relay_finds_the_context_in_the_rows(spans: Spans, tmp_path: Path) -> None:
    with open_external(url_in(tmp_path), OUTBOX_LEASE=600) as shop:
        with trace.get_tracer("app").start_as_current_span("request"):
            shop.place("a", "b")
        with relaying_for(shop) as relay:
            wait_until(lambda: relay.sent() == ["a", "b"], "both are sent")

    assert spans.ours() == [published(links=["request"], attributes=BATCH)]
