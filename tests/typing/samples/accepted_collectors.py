"""Code for "some collector", which type checkers must accept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

from flask import Flask

from flask_eventcollector import (
    AutoPublishingEventCollector,
    CollectorLike,
    Event,
    EventCollector,
    PublishResult,
)

app = Flask(__name__)
events = EventCollector(app)


def place_order(collector: CollectorLike, number: int) -> None:
    """Enqueue an event to whatever collector the caller uses."""
    collector.enqueue_event({"id": number}, "orders.created", headers={"version": 1})
    collector.enqueue_event({}, "orders.created", priority=5, correlation_id=uuid4())
    collector.enqueue_event({}, "orders.created", attributes={"subject": "7"})
    collector.enqueue_event({}, "orders.created", key=("order", number), keep="first")
    collector.enqueue_event({}, "orders.created", delay=1, expires_in=timedelta(days=1))


place_order(events, 1)
place_order(events.thread_singleton_instance(), 2)

with events.auto_publish() as block:
    place_order(block, 3)

with AutoPublishingEventCollector(events) as other_block:
    place_order(other_block, 4)


class Double:
    """A test's own collector, which only notes what is enqueued."""

    def __init__(self) -> None:
        self.events_to_publish: list[Any] = []

    def enqueue_event(
        self,
        payload: Any,
        target_queue: str,
        *,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
        **options: Any,
    ) -> None:
        self.events_to_publish.append(payload)

    def publish(self, timeout: float | None = None) -> None: ...

    def clear_events_to_publish(self) -> None: ...


with events.use_collector(Double()) as double:
    place_order(double, 5)


@events.auto_publish()
def restock(sku: str, *, count: int = 1) -> int:
    return count


@events.auto_publish()
async def restock_later(sku: str) -> int:
    return restock(sku, count=2)


restocked: int = restock("A1", count=3)
event: Event = events.enqueue_event("payload", "queue")
result: PublishResult = events.publish(timeout=0.5)
discarded: int = events.clear_events_to_publish()
collected: tuple[Event, ...] = events.events_to_publish
