"""The metrics by OpenTelemetry's conventions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flask_eventcollector import Outcome
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


def test_what_was_not_sent_is_no_attempt(reader: InMemoryMetricReader) -> None:
    shop = Shop(METRICS="opentelemetry")
    shop.faults.go_down()
    shop.enqueue(1)
    shop.events.publish()
    shop.events.close(0)
    assert reader.get_metrics_data() is None
