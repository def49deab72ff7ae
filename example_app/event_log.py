"""The fate of the latest events, according to the library's signals."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import count, groupby, islice
from typing import Any, NamedTuple

from flask import Flask, Response, current_app, g

from flask_eventcollector import (
    Event,
    event_enqueued,
    events_dead,
    events_discarded,
    events_dropped,
    events_published,
    publish_failed,
)

from .publishing import events as collector


@dataclass(frozen=True)
class Entry:
    """The latest state of one event, without its payload."""

    id: str
    queue: str
    enqueued_at: datetime
    #: Events of one request have the same number.
    unit: int
    state: str = "enqueued"
    reason: str = "no outcome yet"
    attempts: int = 0
    #: Its origin, if it is not from this process.
    origin: str = ""

    @property
    def kind(self) -> tuple[int, str, str, str, str]:
        """Adjacent entries with the same kind share a row on the page."""
        return self.unit, self.queue, self.origin, self.state, self.reason

    def as_row_of(self, outbox: Collection[str]) -> Entry:
        """This entry, if no process has tried to send it: a row of the outbox."""
        if self.state != "enqueued" or self.id not in outbox:
            return self
        return replace(self, state="outboxed", reason="committed with its order")


class LastRequest(NamedTuple):
    """How many events of a request were decided about before it ended."""

    #: Committed, and so left to the outbox.
    outboxed: int
    #: Rolled back, be it to a savepoint.
    discarded: int


#: The unit of events that an earlier process enqueued and left in its spool.
ADOPTED = 0


class EventLog:
    """A bounded, thread-safe list of events."""

    def __init__(self, limit: int = 3_000) -> None:
        self._limit = limit
        self._entries: dict[str, Entry] = {}
        self._units = count(ADOPTED + 1)
        self._since = datetime.now(timezone.utc)
        self._lock = threading.Lock()
        #: What became of the events of the last request that had any.
        self.last_request: LastRequest | None = None

    def init_app(self, app: Flask) -> None:
        """Connect to the library's signals for this app."""
        app.extensions["event_log"] = self
        event_enqueued.connect(self._on_enqueued, sender=app)
        events_published.connect(self._on_published, sender=app)
        publish_failed.connect(self._on_failed, sender=app)
        events_discarded.connect(self._on_discarded, sender=app)
        events_dropped.connect(self._on_dropped, sender=app)
        events_dead.connect(self._on_dead, sender=app)
        app.after_request(self._note_request)

    def rows(self, limit: int, outbox: Collection[str] = ()) -> list[dict[str, Any]]:
        """Return the newest events first, with similar ones grouped into one row.

        :param outbox: the ids of the events that are rows of the outbox.
        """
        with self._lock:
            entries = list(self._entries.values())
        newest_first = [entry.as_row_of(outbox) for entry in reversed(entries)]
        groups = groupby(newest_first, key=lambda entry: entry.kind)
        return [_row(list(group)) for _, group in islice(groups, limit)]

    def _note_request(self, response: Response) -> Response:
        if (unit := g.get("unit")) is not None:
            # What its end decides about is still in its collector.
            undecided = {event.id for event in collector.events_to_publish}
            with self._lock:
                mine = [e for e in self._entries.values() if e.unit == unit]
            states = [entry.state for entry in mine if entry.id not in undecided]
            discarded = states.count("discarded")
            self.last_request = LastRequest(len(states) - discarded, discarded)
        return response

    def _on_enqueued(self, app: Flask, *, event: Event, **extra: Any) -> None:
        unit = g.setdefault("unit", next(self._units))
        entry = Entry(event.id, event.target_queue, event.enqueued_at, unit)
        with self._lock:
            self._put(entry)

    def _on_published(
        self, app: Flask, *, events: Iterable[Event], attempt: int, **extra: Any
    ) -> None:
        self._change(events, state="confirmed", reason="", attempts=attempt)

    def _on_failed(
        self,
        app: Flask,
        *,
        events: Iterable[Event],
        error: object,
        attempt: int,
        **extra: Any,
    ) -> None:
        self._change(events, state="retained", reason=str(error), attempts=attempt)

    def _on_discarded(
        self, app: Flask, *, events: Iterable[Event], reason: str, **extra: Any
    ) -> None:
        self._change(events, state="discarded", reason=reason)

    def _on_dropped(
        self, app: Flask, *, events: Iterable[Event], reason: str, **extra: Any
    ) -> None:
        self._change(events, state="dropped", reason=reason)

    def _on_dead(
        self, app: Flask, *, events: Iterable[Event], reason: str, **extra: Any
    ) -> None:
        self._change(events, state="dead", reason=reason, attempts=0)

    def _change(self, events: Iterable[Event], **changes: Any) -> None:
        with self._lock:
            for event in events:
                if entry := self._entries.get(event.id) or self._adopted(event):
                    self._put(replace(entry, **changes))

    def _adopted(self, event: Event) -> Entry | None:
        """Create an entry for an event that an earlier process enqueued."""
        if event.enqueued_at >= self._since:
            # It was enqueued here, but has been removed from the list.
            return None
        origin = "left by an earlier process"
        return Entry(
            event.id, event.target_queue, event.enqueued_at, ADOPTED, origin=origin
        )

    def _put(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        if len(self._entries) > self._limit:
            del self._entries[next(iter(self._entries))]


def current_event_log() -> EventLog:
    """Return the log of the current app."""
    log: EventLog = current_app.extensions["event_log"]
    return log


def _row(entries: Sequence[Entry]) -> dict[str, Any]:
    first = entries[-1]
    return {
        "id": first.id,
        "count": len(entries),
        "queue": first.queue,
        "origin": first.origin,
        "state": first.state,
        "reason": first.reason,
        "attempts": max(entry.attempts for entry in entries),
        "age": (datetime.now(timezone.utc) - first.enqueued_at).total_seconds(),
    }
