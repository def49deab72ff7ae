"""Receivers that type checkers must refuse."""

from __future__ import annotations

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


# A misspelt argument, for each signal.


@event_enqueued.connect  # refused
def enqueued(sender: Flask, events: tuple[Event, ...], **extra: Any) -> None: ...


@events_published.connect  # refused
def published(sender: Flask, event: Event, **extra: Any) -> None: ...


@publish_failed.connect  # refused
def failed(sender: Flask, reason: str, **extra: Any) -> None: ...


@events_unrouted.connect  # refused
def unrouted(sender: Flask, error: str, **extra: Any) -> None: ...


@events_discarded.connect  # refused
def discarded(sender: Flask, error: str, **extra: Any) -> None: ...


@events_dropped.connect  # refused
def dropped(sender: Flask, reasons: str, **extra: Any) -> None: ...


@events_dead.connect  # refused
def dead(sender: Flask, *, attempts: int, **extra: Any) -> None: ...


@spool_file_quarantined.connect  # refused
def quarantined(sender: Flask, file: Path, **extra: Any) -> None: ...


@broker_state_changed.connect  # refused
def changed(sender: Flask, broker: str, **extra: Any) -> None: ...


# A misspelt argument, for each way to connect.


@events_published.connect_via(app)  # refused
def published_by_app(sender: Flask, elapsed_time: float, **extra: Any) -> None: ...


def misspelt(sender: Flask, *, atempt: int, **extra: Any) -> None: ...


events_published.connect(misspelt)  # refused
events_published.connect(misspelt, sender=app, weak=False)  # refused

with events_published.connected_to(misspelt, sender=app):  # refused
    pass

receiver: EventsPublishedReceiver = misspelt  # refused


# An argument of the wrong type.


@event_enqueued.connect  # refused
def enqueued_dict(sender: Flask, event: dict[str, Any], **extra: Any) -> None: ...


@events_published.connect  # refused
def published_list(sender: Flask, events: list[Event], **extra: Any) -> None: ...


@publish_failed.connect  # refused
def failed_outcome(sender: Flask, outcome: str, **extra: Any) -> None: ...


@spool_file_quarantined.connect  # refused
def quarantined_path(sender: Flask, path: str, **extra: Any) -> None: ...


@broker_state_changed.connect  # refused
def changed_error(sender: Flask, error: Exception, **extra: Any) -> None: ...


# No room for the arguments of later versions.


@event_enqueued.connect  # refused
def enqueued_only(sender: Flask, event: Event) -> None: ...


@events_published.connect  # refused
def published_only(
    sender: Flask, events: tuple[Event, ...], attempt: int, elapsed: float
) -> None: ...


@publish_failed.connect  # refused
def failed_only(
    sender: Flask,
    events: tuple[Event, ...],
    outcome: Outcome | None,
    error: str,
    attempt: int,
    first: bool,
) -> None: ...


@events_unrouted.connect  # refused
def unrouted_only(sender: Flask, events: tuple[Event, ...], reason: str) -> None: ...


@events_discarded.connect  # refused
def discarded_only(sender: Flask, events: tuple[Event, ...], reason: str) -> None: ...


@events_dropped.connect  # refused
def dropped_only(sender: Flask, events: tuple[Event, ...], reason: str) -> None: ...


@events_dead.connect  # refused
def dead_only(sender: Flask, events: tuple[Event, ...], reason: str) -> None: ...


@spool_file_quarantined.connect  # refused
def quarantined_only(sender: Flask, path: Path, reason: str, rescued: int) -> None: ...


@broker_state_changed.connect  # refused
def changed_only(sender: Flask, state: BrokerState, error: str) -> None: ...


# No sender.


@events_discarded.connect  # refused
def discarded_nothing() -> None: ...


@events_dead.connect  # refused
def dead_keywords(**arguments: Any) -> None: ...
