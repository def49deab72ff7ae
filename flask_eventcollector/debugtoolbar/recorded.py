"""What is remembered of a request and its events, for people to read."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from ..events import Event
from ..messages.wording import counted
from ..monitoring.origin import origin_of_call

#: How many events of a request are remembered.
MOST_EVENTS = 100
#: How many characters of a payload are, and of headers and options.
MOST_CHARACTERS = 1_000


class RecordedEvent:
    """An event, with what is known of its fate."""

    def __init__(self, event: Event, *, is_kept: bool) -> None:
        self.id = event.id
        self.target = excerpt(str(event.target))
        self.payload = _payload(event)
        self.headers = _pairs(event.headers)
        self.options = _options(event)
        #: The line of code that has enqueued it.
        self.origin = str(origin_of_call() or "")
        #: Whether the commit of its transaction leaves it to the outbox.
        self.is_kept = is_kept
        #: Its final outcome; ``""``: it has none yet.
        self.outcome = ""
        #: Why that is its outcome, or why it waits; ``""``: not known.
        self.reason = ""

    def end(self, outcome: str, reason: str = "") -> None:
        """Note its final outcome."""
        self.outcome, self.reason = outcome, excerpt(reason)

    def note(self, reason: str) -> None:
        """Note why it waits."""
        self.reason = excerpt(reason)


class RecordedRequest:
    """A request, with the first of its events."""

    def __init__(self, name: str = "") -> None:
        #: Its method and path.
        self.name = excerpt(name)
        #: Of its response; ``None``: there is none yet.
        self.status: int | None = None
        #: The type of what it has raised, even if that was handled.
        self.error = ""
        #: By id.
        self.events: dict[str, RecordedEvent] = {}
        #: How many it has enqueued.
        self.count = 0

    @property
    def result(self) -> str:
        """Its status, and what it has raised."""
        status = str(self.status or "")
        return " ".join(filter(None, [status, self.error])) or "no response yet"

    def add(self, event: Event, *, is_kept: bool) -> None:
        """Note an event that it enqueues now."""
        self.count += 1
        if len(self.events) < MOST_EVENTS:
            self.events[event.id] = RecordedEvent(event, is_kept=is_kept)


def excerpt(text: str) -> str:
    """The beginning of *text*."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}… ({counted(len(text), 'character')})"


def _payload(event: Event) -> str:
    try:
        return excerpt(event.body.decode())
    except UnicodeDecodeError:
        return f"{counted(len(event.body), 'byte')} of {event.content_type}"


def _options(event: Event) -> str:
    options = event.properties.as_dict()
    if (key := event.properties.key) is not None:
        # Any value can be a key, so its own repr() may fail.
        options["key"] = reprlib.repr(key)
    return _pairs(options)


def _pairs(values: Mapping[str, Any]) -> str:
    return excerpt(", ".join(f"{name}: {value}" for name, value in values.items()))
