"""Uses of a collector that type checkers must refuse."""

from __future__ import annotations

from typing import Any

from flask import Flask

from flask_eventcollector import CollectorLike, EventCollector

app = Flask(__name__)
events = EventCollector(app)


def place_order(collector: CollectorLike) -> None:
    collector.enqueue_event({"id": 1})  # refused
    collector.enqueue_event({"id": 1}, "orders", {"version": 1})  # refused
    collector.enqueue_event({"id": 1}, "orders", header={})  # refused
    collector.enqueue_event({"id": 1}, "orders", priority="high")  # refused
    collector.enqueue_event({"id": 1}, "orders", attributes=["a"])  # refused
    collector.enqueue_event({"id": 1}, "orders", key=1, keep="newest")  # refused
    collector.flush(1.0)  # refused


place_order(app)  # refused


class NoPublish:
    """Lacks ``publish``."""

    events_to_publish = ()

    def enqueue_event(
        self, payload: Any, target_queue: str, **options: Any
    ) -> None: ...

    def clear_events_to_publish(self) -> None: ...


with events.use_collector(NoPublish()):  # refused
    pass


@events.auto_publish()
def restock(sku: str, *, count: int = 1) -> None: ...


restock("A1", counts=2)  # refused
events.publish("1")  # refused
events.publish().complete()  # refused
events.purge()  # refused
