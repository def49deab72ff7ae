"""The metrics by OpenTelemetry's conventions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flask_eventcollector import Outcome, Stats
from flask_eventcollector.delivery.observations import Happened, Observation
from flask_eventcollector.monitoring.opentelemetry import (
    OpenTelemetryMetrics,
    OpenTelemetryOutbox,
)
from flask_eventcollector.monitoring.outbox import OutboxFigures
from tests.helpers import Shop


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(
        metrics, "get_meter", lambda *args, **named: provider.get_meter(*args, **named)
    )
    yield reader
    provider.shutdown()


def points(reader: InMemoryMetricReader, name: str) -> list[Any]:
    """The data points of one instrument."""
    data = reader.get_metrics_data()
    assert data is not None
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    (metric,) = (metric for metric in scope.metrics if metric.name == name)
    return list(metric.data.data_points)


def test_attempts_are_reported(reader: InMemoryMetricReader) -> None:
    shop = Shop(METRICS="opentelemetry", QUEUES={"q": {}})
    shop.enqueue(1, 2)
    shop.enqueue(3, queue="user-17")
    shop.events.publish()
    shop.faults.refuse("q", Outcome.NACKED)
    shop.enqueue(4)
    shop.events.publish()
    shop.events.close(0)

    sent = points(reader, "messaging.client.sent.messages")
    common = {
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.system": "rabbitmq",
    }
    found = [(point.value, dict(point.attributes)) for point in sent]
    named = {"messaging.destination.name": "q"}
    assert (2, common | named) in found
    assert (1, common) in found
    refused = common | named | {"error.type": "nacked"}
    assert sum(count for count, attributes in found if attributes == refused) >= 1
    durations = points(reader, "messaging.client.operation.duration")
    assert {point.count for point in durations} >= {1}
    assert all(0 <= point.sum < 60 for point in durations)


def test_attempts_tell_the_node(reader: InMemoryMetricReader) -> None:
    observed = Observation(Happened.CONFIRMED, (), 0.0, node="rabbit:5672", number=1)
    OpenTelemetryMetrics(()).observe([observed], Stats())
    (point,) = points(reader, "messaging.client.sent.messages")
    node = {"server.address": "rabbit", "server.port": 5672}
    assert point.attributes.items() >= node.items()


def test_beside_others_it_is_told_of_attempts_alone(
    reader: InMemoryMetricReader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = ["prometheus", "opentelemetry"]
    shop = Shop(METRICS=metrics, HISTORY_DIR=str(tmp_path))
    shop.enqueue(1, 2)
    shop.events.publish()
    shop.events.close(0)
    (point,) = points(reader, "messaging.client.sent.messages")
    assert point.value == 2
    assert "Observer failed" not in caplog.text


def test_what_was_not_sent_is_no_attempt(reader: InMemoryMetricReader) -> None:
    shop = Shop(METRICS="opentelemetry")
    shop.faults.go_down()
    shop.enqueue(1)
    shop.events.publish()
    shop.events.close(0)
    assert reader.get_metrics_data() is None


LAST_ACTIVE = "relay.last_active"


def test_the_active_relay_reports_the_outbox(reader: InMemoryMetricReader) -> None:
    looks = iter([OutboxFigures({"free": 5, "dead": 1}, 7.5)])
    observer = OpenTelemetryOutbox(lambda: next(looks))
    observer.observe([], Stats())
    rows = points(reader, "eventcollector.outbox.events")
    assert {p.attributes["eventcollector.state"]: p.value for p in rows} == {
        "free": 5,
        "dead": 1,
    }


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (OutboxFigures({"free": 5}, 7.5), {"oldest_age": 7.5, LAST_ACTIVE: 1e9}),
        (OutboxFigures({}, 0), {LAST_ACTIVE: 1e9}),
        (None, {LAST_ACTIVE: 0}),
    ],
    ids=["active", "not counted", "standby"],
)
def test_each_relay_reports_when_it_was_active(
    reader: InMemoryMetricReader,
    monkeypatch: pytest.MonkeyPatch,
    look: OutboxFigures | None,
    expected: dict[str, float],
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)
    OpenTelemetryOutbox(lambda: look).observe([], Stats())
    assert outbox(reader, *expected) == expected


def outbox(reader: InMemoryMetricReader, *names: str) -> dict[str, float]:
    """The values of what is reported of the outbox; there is nothing but *names*."""
    data = reader.get_metrics_data()
    assert data is not None
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    found = {
        metric.name.removeprefix("eventcollector.outbox."): metric.data.data_points
        for metric in scope.metrics
    }
    assert found.keys() - {"events"} == {*names}
    return {name: found[name][0].value for name in names}  # type: ignore[union-attr]


def test_lost_leases_are_reported_once(reader: InMemoryMetricReader) -> None:
    observer = OpenTelemetryMetrics(())
    for lost in (0, 2, 2, 3):
        observer.observe([], Stats(lost_leases=lost))
    (point,) = points(reader, "eventcollector.lease.lost")
    assert point.value == 3
