"""Receivers that type checkers must accept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flask import Flask

from flask_eventcollector import (
    BrokerState,
    Event,
    Outcome,
    broker_state_changed,
    event_enqueued,
    events_dead,
    events_discarded,
    events_dropped,
    events_published,
    events_unrouted,
    publish_failed,
    spool_file_quarantined,
)
from flask_eventcollector.signals import EventsPublishedReceiver

app = Flask(__name__)


# Each signal, with all of its arguments.


@event_enqueued.connect
def enqueued(sender: Flask, event: Event, **extra: Any) -> None: ...


@events_published.connect
def published(
    sender: Flask,
    events: tuple[Event, ...],
    attempt: int,
    elapsed: float,
    **extra: Any,
) -> None: ...


@events_unrouted.connect
def unrouted(
    sender: Flask, events: tuple[Event, ...], reason: str, **extra: Any
) -> None: ...


@publish_failed.connect
def failed(
    sender: Flask,
    events: tuple[Event, ...],
    outcome: Outcome | None,
    error: str,
    attempt: int,
    first: bool,
    **extra: Any,
) -> None: ...


@events_discarded.connect
def discarded(
    sender: Flask, events: tuple[Event, ...], reason: str, **extra: Any
) -> None: ...


@events_dropped.connect
def dropped(
    sender: Flask, events: tuple[Event, ...], reason: str, **extra: Any
) -> None: ...


@events_dead.connect
def dead(
    sender: Flask, events: tuple[Event, ...], reason: str, **extra: Any
) -> None: ...


@spool_file_quarantined.connect
def quarantined(
    sender: Flask, path: Path, reason: str, rescued: int, **extra: Any
) -> None: ...


@broker_state_changed.connect
def changed(sender: Flask, state: BrokerState, error: str, **extra: Any) -> None: ...


# Other ways to connect.


@events_published.connect_via(app)
def published_by_app(sender: Flask, events: Sequence[Event], **extra: Any) -> None: ...


events_published.connect(published_by_app, sender=app, weak=False)

with events_published.connected_to(published_by_app, sender=app):
    pass


# Other receivers.


@events_published.connect
def published_all(sender: object, **arguments: object) -> None: ...


@events_published.connect
async def published_async(sender: Flask, *, attempt: int, **extra: Any) -> None: ...


@events_published.connect
def published_wider(app: Any, elapsed: float | None, **extra: Any) -> int:
    return 0


def forwarded(*args: Any, **kwargs: Any) -> None: ...


event_enqueued.connect(forwarded)


class Counter:
    """Counts confirmed events."""

    def __init__(self) -> None:
        self.count = 0

    def published(self, sender: Flask, events: Sequence[Event], **extra: Any) -> None:
        self.count += len(events)

    def __call__(self, sender: Flask, events: Sequence[Event], **extra: Any) -> None:
        self.count += len(events)


events_published.connect(Counter().published, weak=False)
events_published.connect(Counter(), weak=False)
receiver: EventsPublishedReceiver = Counter()
