"""Plain values: what is sent and what became of it."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, NamedTuple


class Target(NamedTuple):
    """Where an event goes; order is kept per target."""

    exchange: str
    queue: str

    def __str__(self) -> str:
        return f"{self.exchange}/{self.queue}" if self.exchange else self.queue


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One payload for one target queue, encoded when it was enqueued.

    Two events are equal only if they are the same one. The ``repr`` leaves out the
    payload and the headers, since it may end up in a log.
    """

    #: The AMQP ``message_id``: the same for every attempt.
    id: str
    #: The routing key, which is the queue's name on the default exchange.
    target_queue: str
    #: The exchange; ``""`` is AMQP's default exchange.
    exchange: str
    #: The payload as plain JSON, UTF-8: the body of the AMQP message.
    body: bytes = field(repr=False)
    #: The caller's headers.
    headers: Mapping[str, Any] = field(repr=False)
    #: When it was enqueued, in UTC.
    enqueued_at: datetime
    #: What the event counts against ``EVENTCOLLECTOR_MAX_BYTES``, in bytes.
    size: int = field(repr=False)

    @property
    def payload(self) -> Any:
        """The payload as a consumer sees it: decoded from :attr:`body`."""
        return json.loads(self.body)

    @property
    def target(self) -> Target:
        """Exchange and target queue together."""
        return Target(self.exchange, self.target_queue)


class Outcome(str, enum.Enum):
    """What became of one event that was sent."""

    #: The broker has taken it.
    CONFIRMED = "confirmed"
    #: The broker refused it (``basic.nack``), for example because a queue is full.
    NACKED = "nacked"
    #: No queue for it (``basic.return``), or no such exchange.
    RETURNED = "returned"
    #: The channel or the connection ended before the confirm came.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PublishResult:
    """How the events of one ``publish()`` stood when it returned."""

    confirmed: int = 0
    #: Sent; the confirm has not come yet.
    in_flight: int = 0
    #: Waiting in the backlog; the flusher sends them.
    retained: int = 0
    #: Set aside, because the broker can never take them.
    dead: int = 0
    #: Lost to a limit while the caller waited.
    dropped: int = 0

    @property
    def complete(self) -> bool:
        """Whether every event was confirmed (or there was none)."""
        return self == PublishResult(confirmed=self.confirmed)


@dataclass(frozen=True, slots=True)
class DeadEvent:
    """An event that was set aside, and why."""

    event: Event
    #: The broker's last word on it.
    reason: str
    #: How often it was sent.
    attempts: int


class BrokerState(str, enum.Enum):
    """How the broker stands, from best to worst."""

    #: It answers.
    READY = "ready"
    #: Nothing was enqueued yet, so nobody has called it.
    IDLE = "idle"
    #: The first connection is being made.
    CONNECTING = "connecting"
    #: A wait ran out and no confirm has come since.
    STALLED = "stalled"
    #: It takes nothing because of an alarm (``connection.blocked``).
    BLOCKED = "blocked"
    #: There is no connection; it is tried again.
    DOWN = "down"
    #: ``close()`` was called.
    CLOSED = "closed"

    def __str__(self) -> str:
        return self.value

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection on which events can be published."""
        return self in (BrokerState.READY, BrokerState.STALLED, BrokerState.BLOCKED)

    @property
    def may_confirm_soon(self) -> bool:
        """Whether it is worthwhile to wait a moment for a confirm."""
        return self in (BrokerState.READY, BrokerState.IDLE, BrokerState.CONNECTING)

    @property
    def is_trouble(self) -> bool:
        """Whether events are retained because of it."""
        return self in (BrokerState.STALLED, BrokerState.BLOCKED, BrokerState.DOWN)


@dataclass(frozen=True, slots=True)
class Stats:
    """The books of one process, and the broker's state.

    ``enqueued + adopted`` is always the sum of the seven that follow it.
    """

    enqueued: int = 0
    adopted: int = 0
    collected: int = 0
    in_flight: int = 0
    retained: int = 0
    dead: int = 0
    confirmed: int = 0
    discarded: int = 0
    dropped: int = 0
    #: Of those in flight, retained and dead: how many are on disk.
    spooled: int = 0
    #: Events that should be on disk and are not, because the disk fails.
    unspooled: int = 0
    #: Rows on disk of events that have ended. Were the process killed now, these would
    #: be sent once more.
    unerased: int = 0
    #: Events of dead processes that this one has found and not adopted yet.
    unadopted: int = 0
    #: Files that could not be read as a whole, and were renamed.
    quarantined: int = 0
    #: Bytes held in memory, counted against ``EVENTCOLLECTOR_MAX_BYTES``.
    held_bytes: int = 0
    #: Seconds since the oldest event that is in flight or retained was enqueued.
    oldest_age: float | None = None
    broker: BrokerState = BrokerState.IDLE
    #: Why the broker is not ready, or what is wrong with it; ``""`` if nothing is.
    broker_error: str = ""
    #: Why the spool can't be written; ``""`` if it can, or if there is none.
    spool_error: str = ""

    @property
    def balanced(self) -> bool:
        """Whether every event is accounted for exactly once."""
        living = self.collected + self.in_flight + self.retained + self.dead
        ended = self.confirmed + self.discarded + self.dropped
        return self.enqueued + self.adopted == living + ended

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self) | {"broker": self.broker.value}

    def __add__(self, other: Stats) -> Stats:
        """The books of two apps together, with the worse of the broker's states."""
        worse = max(
            self, other, key=lambda stats: list(BrokerState).index(stats.broker)
        )
        ages = [s.oldest_age for s in (self, other) if s.oldest_age is not None]
        counts = {
            f.name: getattr(self, f.name) + getattr(other, f.name)
            for f in fields(Stats)
            if isinstance(f.default, int)
        }
        return Stats(
            **counts,
            oldest_age=max(ages, default=None),
            broker=worse.broker,
            broker_error=worse.broker_error,
            spool_error=self.spool_error or other.spool_error,
        )
