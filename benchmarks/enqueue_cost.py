"""The time that `enqueue_event` takes, beside `json.dumps` of the same payload."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Flask

from flask_eventcollector import EventCollector
from tests.rabbitmq import RabbitMQNode

from .results import Benchmark, Case, Job

UNIT = "µs"
OURS, DUMPS = "enqueue_event", "json.dumps"
SIZES = {"256 B": 256, "1 KB": 1024, "64 KB": 65536}
#: Events in one unit of work.
_BATCH = 100


def jobs(quick: bool) -> list[Job]:
    batches = 20 if quick else 200
    return [
        Job.of_one(Case("one thread", label), name, partial(measure, size, batches))
        for label, size in SIZES.items()
        for name, measure in ((DUMPS, _dumps), (OURS, _enqueue))
    ]


def payload_of(size: int) -> dict[str, Any]:
    """A payload with *size* bytes as JSON."""
    payload = {"order_id": 7, "note": ""}
    return payload | {"note": "x" * (size - len(json.dumps(payload)))}


def _dumps(size: int, batches: int, _node: RabbitMQNode) -> Mapping[str, float]:
    payload = payload_of(size)

    def batch() -> None:
        for _ in range(_BATCH):
            json.dumps(payload)

    return {UNIT: _microseconds(batch, lambda: None, batches)}


def _enqueue(size: int, batches: int, node: RabbitMQNode) -> Mapping[str, float]:
    payload = payload_of(size)
    app = Flask("benchmark")
    app.config["EVENTCOLLECTOR_BROKER_URL"] = node.url
    events = EventCollector(app)

    def batch() -> None:
        for _ in range(_BATCH):
            events.enqueue_event(payload, "orders")

    with app.test_request_context():
        found = _microseconds(batch, events.clear_events_to_publish, batches)
    events.close(1)
    return {UNIT: found}


def _microseconds(
    batch: Callable[[], object], after: Callable[[], object], batches: int
) -> float:
    """The time of one event in the fastest of ten parts, without *after*."""
    return min(_part(batch, after, max(1, batches // 10)) for _ in range(10))


def _part(
    batch: Callable[[], object], after: Callable[[], object], batches: int
) -> float:
    seconds = 0.0
    for _ in range(batches):
        began = time.perf_counter()
        batch()
        seconds += time.perf_counter() - began
        after()
    return 1e6 * seconds / batches / _BATCH


BENCHMARK = Benchmark(
    name="enqueue-cost",
    title="Enqueue cost: one event, by size",
    baseline=DUMPS,
    units=(UNIT,),
    jobs=jobs,
)
