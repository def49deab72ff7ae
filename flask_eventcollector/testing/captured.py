"""Captured events, each with its fate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..events import Event, Outcome, Properties, Word
from ..messages.attributes import RESERVED
from ..messages.cloudevents import attributes_of, split_headers
from ..monitoring.origin import Origin
from .matching import Medium, show

#: The kind of unit of work that an event belongs to; ``""``: unknown.
Unit = Literal["request", "block", "thread", ""]


class Fate(Word):
    """What has happened to an event so far."""

    #: It is in a collector, or in flight.
    ENQUEUED = "enqueued"
    #: The broker has confirmed it.
    PUBLISHED = "published"
    #: The broker has taken it, but no queue gets it, which the settings allow.
    UNROUTED = "unrouted"
    #: It is retained for retry.
    RETAINED = "retained"
    #: It was discarded on purpose.
    DISCARDED = "discarded"
    #: It was lost to a limit, or purged.
    DROPPED = "dropped"
    #: It was dead-lettered, because the broker kept refusing it.
    DEAD = "dead"

    @property
    def final(self) -> bool:
        """Whether the event's fate can't change any more."""
        return self not in (Fate.ENQUEUED, Fate.RETAINED, Fate.DEAD)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CapturedEvent:
    """One event with its fate at the time when its list was read.

    It is equal to an :func:`~flask_eventcollector.testing.event` that it matches, and
    to any other snapshot of the same event. Its ``repr`` shows the payload.
    """

    #: The event itself.
    event: Event
    #: How its app encodes payloads.
    medium: Medium
    fate: Fate = Fate.ENQUEUED
    #: Why it was discarded, retained, dropped or dead-lettered.
    reason: str = ""
    #: The outcome because of which it is retained; ``None``: it was not sent.
    outcome: Outcome | None = None
    #: How many times it was sent.
    attempts: int = 0
    #: The line of code that enqueued it; ``None``: before the capture started.
    origin: Origin | None = None
    #: Its unit of work: ``"request"``, ``"block"`` or ``"thread"``; ``""``: it was
    #: enqueued before the capture started.
    unit: Unit = ""
    #: The queues of the settings into which its exchange puts it, in their order;
    #: ``None``: no queue of the settings is bound to the exchange.
    routed_to: tuple[str, ...] | None = None

    def has(self, fate: Fate) -> bool:
        """Whether *fate* is its fate; all events were enqueued."""
        return self.fate is fate or fate is Fate.ENQUEUED

    @property
    def id(self) -> str:
        """The AMQP ``message_id``."""
        return self.event.id

    @property
    def queue(self) -> str:
        """The target queue."""
        return self.event.target_queue

    @property
    def exchange(self) -> str:
        """The exchange; ``""`` is AMQP's default exchange."""
        return self.event.exchange

    @property
    def payload(self) -> Any:
        """The payload as a consumer sees it."""
        return self.event.payload

    @property
    def headers(self) -> Mapping[str, Any]:
        """The caller's headers, and those that the settings add."""
        return self.event.headers

    @property
    def properties(self) -> Properties:
        """Its other AMQP properties."""
        return self.event.properties

    @property
    def attributes(self) -> Mapping[str, str]:
        """Those of the CloudEvent that it is, as text; empty: it is none."""
        return attributes_of(self.event)

    def __repr__(self) -> str:
        arguments = [repr(self.queue), show(self.payload)]
        _, headers = split_headers(self.headers)
        if headers:
            arguments.append(f"headers={show(headers)}")
        if self.exchange:
            arguments.append(f"exchange={self.exchange!r}")
        properties = self.event.properties.as_dict()
        if self.event.properties.key is not None:
            properties["key"] = self.event.properties.key
        own = {k: v for k, v in self.attributes.items() if k not in RESERVED}
        if own:
            properties["attributes"] = own
        for name, value in properties.items():
            arguments.append(f"{name}={show(value)}")
        return f"event({', '.join(arguments)})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, CapturedEvent):
            return self.id == other.id
        # An expected event decides whether this one matches.
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)


class CapturedEvents(list[CapturedEvent]):
    """A list of captured events. Those that compare equal count as asserted on."""

    __slots__ = ("_note",)

    def __init__(
        self,
        events: Iterable[CapturedEvent],
        note: Callable[[Iterable[CapturedEvent]], None],
    ) -> None:
        super().__init__(events)
        self._note = note

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)
        if same is True:
            self._note(self)
        return same

    __hash__ = None

    def __contains__(self, expected: object) -> bool:
        found = [event for event in self if event == expected]
        self._note(found)
        return bool(found)
