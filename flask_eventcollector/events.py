"""The plain values of the public interface."""

from __future__ import annotations

import base64
import enum
import json
import time
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


class Target(NamedTuple):
    """An exchange with a target queue. Order is kept per target."""

    exchange: str
    queue: str

    def __str__(self) -> str:
        return f"{self.exchange}/{self.queue}" if self.exchange else self.queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """What an event says about itself besides its headers; ``None``: nothing.

    See https://www.rabbitmq.com/docs/publishers#message-properties.
    """

    #: The media type of the body; ``None``: JSON, ``application/json``.
    content_type: str | None = None
    #: How the body is compressed, or the character set of its text.
    content_encoding: str | None = None
    #: The kind of event, for consumers.
    type: str | None = None
    #: What the event belongs to, for consumers: a request, or a question.
    correlation_id: str | None = None
    #: The queue for an answer.
    reply_to: str | None = None
    #: From 0 to 255, the highest first, in a queue that has priorities.
    priority: int | None = None
    #: Seconds after which it is not sent any more, from when it was enqueued.
    expires_in: float | None = None
    #: Seconds for which it is held back, from when it was enqueued.
    delay: float | None = None
    #: What it is about, in its unit of work: of several events for a target with the
    #: same key, only one is published. Not sent, and not stored.
    key: Hashable | None = None
    #: Which one, if this is a later one: the ``"last"`` or the ``"first"``.
    keep: str = "last"

    def as_dict(self) -> dict[str, Any]:
        """Those that are present, by name, without the key."""
        values = ((name, getattr(self, name)) for name in _STORED)
        return {name: value for name, value in values if value is not None}


_STORED = tuple(f.name for f in fields(Properties) if f.name not in ("key", "keep"))

NO_PROPERTIES: Final = Properties()

#: What the library itself encodes.
JSON_TYPE: Final = "application/json"

#: How the content types of structured CloudEvents begin, in lower case.
CLOUDEVENT_TYPE: Final = "application/cloudevents"


@dataclass(slots=True, eq=False, repr=False)
class Event:
    """One payload for one target queue, encoded when it was enqueued.

    Events compare by identity. The ``repr`` omits the payload and the headers, since it
    may end up in a log.
    """

    # A process may hold very many, so each takes little memory.

    #: Whether it has no properties. Those that have are of a subclass, since few do.
    is_plain: ClassVar[bool] = True

    #: The id. A UUID is kept as a number, which takes half the memory of its text.
    raw_id: Final[int | str]
    #: The exchange with the target queue.
    target: Final[Target]
    #: The body of the AMQP message: as a rule, the payload as JSON in UTF-8.
    body: Final[bytes]
    #: The caller's headers, and those that the settings add.
    headers: Final[Mapping[str, Any]]
    #: When it was enqueued, in microseconds since 1970.
    microseconds: Final[int]
    #: Bytes that the event counts against ``EVENTCOLLECTOR_MAX_BYTES``.
    size: Final[int]

    @classmethod
    def of(
        cls,
        *,
        id: str,
        target_queue: str,
        exchange: str,
        body: bytes,
        headers: Mapping[str, Any],
        enqueued_at: datetime,
        size: int,
        properties: Properties = NO_PROPERTIES,
    ) -> Event:
        """An event with these attributes; *enqueued_at* is aware of its time zone."""
        return make_event(
            id_from_text(id),
            Target(exchange, target_queue),
            body,
            headers,
            (enqueued_at - _EPOCH) // _MICROSECOND,
            size,
            properties,
        )

    def __repr__(self) -> str:
        shown = ("id", "target_queue", "exchange", "enqueued_at")
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"Event({values})"

    @property
    def id(self) -> str:
        """The AMQP ``message_id`` (a UUID), the same for every attempt."""
        return id_as_text(self.raw_id)

    @property
    def target_queue(self) -> str:
        """The routing key. On the default exchange, it is the queue's name."""
        return self.target.queue

    @property
    def exchange(self) -> str:
        """The exchange; ``""`` is AMQP's default exchange."""
        return self.target.exchange

    @property
    def enqueued_at(self) -> datetime:
        """When it was enqueued, in UTC (timezone-aware)."""
        return _EPOCH + self.microseconds * _MICROSECOND

    @property
    def properties(self) -> Properties:
        """Its other AMQP properties."""
        return NO_PROPERTIES

    @property
    def has_delay(self) -> bool:
        """Whether it was enqueued with a delay, which may have passed."""
        return self.properties.delay is not None

    @property
    def due_at(self) -> float:
        """Since when it may be sent, as a Unix time."""
        return self.microseconds / 1e6 + (self.properties.delay or 0.0)

    @property
    def due_in(self) -> float:
        """Seconds until it may be sent; 0: it may be sent now."""
        return max(0.0, self.due_at - time.time()) if self.has_delay else 0.0

    @property
    def waiting_state(self) -> str:
        """``"delayed"``, ``"waiting"`` or ``"expired"``, if it is not sent yet.

        What has expired is dropped instead of sent.
        """
        if self.time_left == 0:
            return "expired"
        return "delayed" if self.due_in else "waiting"

    @property
    def time_left(self) -> float | None:
        """Seconds until it is not sent any more; ``None``: it does not expire."""
        left = self.properties.expires_in
        return None if left is None else max(0.0, left - self._age)

    @property
    def _age(self) -> float:
        # At least 0: the clock of the host that enqueued it may be ahead.
        return max(0.0, time.time() - self.microseconds / 1e6)

    @property
    def content_type(self) -> str:
        """The media type of :attr:`body`."""
        return self.properties.content_type or JSON_TYPE

    @property
    def payload(self) -> Any:
        """The payload as a consumer sees it, decoded from :attr:`body`.

        Only JSON is decoded. Any other body is returned as it is, as bytes. Of a
        structured CloudEvent, it is the data.
        """
        decoded = decoded_body(self)
        if is_structured(self) and isinstance(decoded, dict):
            return _data_of(decoded)
        return decoded


@dataclass(slots=True, eq=False, repr=False)
class _DescribedEvent(Event):
    """An event with properties."""

    is_plain: ClassVar[bool] = False

    own_properties: Final[Properties]

    @property
    def properties(self) -> Properties:
        return self.own_properties


def make_event(
    raw_id: int | str,
    target: Target,
    body: bytes,
    headers: Mapping[str, Any],
    microseconds: int,
    size: int,
    properties: Properties,
) -> Event:
    """An event, which takes more memory only if it has *properties*."""
    values = (raw_id, target, body, headers, microseconds, size)
    # The key first: its own code need not know how to compare it with None.
    if properties.key is None and properties == NO_PROPERTIES:
        return Event(*values)
    return _DescribedEvent(*values, properties)


def is_json(content_type: str) -> bool:
    """Whether *content_type* names JSON, as ``application/vnd.shop+json`` does."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON_TYPE or media_type.endswith("+json")


def is_in_utf8(properties: Properties) -> bool:
    """Whether a body with *properties* is neither compressed nor in another charset."""
    encoding = properties.content_encoding
    return encoding is None or encoding.lower() in ("utf-8", "utf8", "identity")


def is_structured(event: Event) -> bool:
    """Whether the body is a CloudEvent with its attributes."""
    return event.content_type.lower().startswith(CLOUDEVENT_TYPE)


def decoded_body(event: Event) -> Any:
    """The body, decoded if it is JSON."""
    if not (is_json(event.content_type) and is_in_utf8(event.properties)):
        return event.body
    try:
        return json.loads(event.body)
    except (ValueError, RecursionError):
        # It was enqueued as bytes.
        return event.body


def _data_of(envelope: dict[str, Any]) -> Any:
    """The data of a structured CloudEvent."""
    encoded = envelope.get("data_base64")
    if encoded is None:
        return envelope.get("data")
    try:
        return base64.b64decode(encoded)
    except (TypeError, ValueError):
        # It was enqueued as bytes.
        return encoded


def id_as_text(id: int | str) -> str:
    """The id of :attr:`Event.raw_id`, as a consumer sees it."""
    if isinstance(id, str):
        return id
    digits = id.to_bytes(16, "big").hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def id_from_text(text: str) -> int | str:
    """The number of a UUID in lower case; any other *text* remains text."""
    try:
        id = int(text.replace("-", ""), 16)
        return id if id_as_text(id) == text else text
    except (ValueError, OverflowError):
        return text


class Word(str, enum.Enum):
    """An enum whose members are words: ``str()`` and ``format()`` give the word."""

    def __str__(self) -> str:
        return str(self.value)


W = TypeVar("W", bound=Word)


def worst_of(kind: type[W], found: Iterable[W]) -> W:
    """The worst of *found*, where *kind* goes from best to worst; the best: none."""
    order = list(kind)
    return max(found, key=order.index, default=order[0])


class Outcome(Word):
    """The outcome of one event that was sent.

    See https://www.rabbitmq.com/docs/confirms for the publisher's side of AMQP.
    """

    #: The broker confirmed it (``basic.ack``).
    CONFIRMED = "confirmed"
    #: The broker refused it (``basic.nack``), for example because a queue is full.
    NACKED = "nacked"
    #: No queue was bound for it (``basic.return``), or the exchange does not exist.
    RETURNED = "returned"
    #: The channel or the connection was lost before the confirm arrived.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TargetProblem:
    """A target whose events are not confirmed, with the broker's last word on it."""

    #: The queue's name, or the routing key.
    queue: str
    #: The exchange; ``""`` is AMQP's default exchange.
    exchange: str
    #: How many events for it wait, or are dead.
    events: int
    #: Why: what the broker said when it last refused one, or that it is silent.
    reason: str
    #: How many times the event was sent that it refused last.
    attempts: int = 0
    #: Seconds since the last failed attempt; ``None``: there was none.
    last_try: float | None = None
    #: Seconds until the next attempt; ``None``: it does not depend on the time, for
    #: example because the broker is unreachable.
    next_try: float | None = None

    def __str__(self) -> str:
        return f"{Target(self.exchange, self.queue)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The state of one ``publish()`` call's events when it returned, as counts."""

    #: Confirmed by the broker.
    confirmed: int = 0
    #: Sent, but not confirmed yet.
    in_flight: int = 0
    #: Waiting in the backlog; the flusher retries them.
    retained: int = 0
    #: Dead-lettered, because the broker can never accept them.
    dead: int = 0
    #: Dropped at a limit, or expired, while the caller waited.
    dropped: int = 0
    #: Held back, since their delay has not passed.
    delayed: int = 0
    #: Not handed over yet, since their transaction is still open: its commit publishes
    #: them. See :meth:`EventCollector.bind_session`.
    held: int = 0
    #: Left to the outbox before, by the commit of their transaction: the process that
    #: holds their rows sends them. See ``EVENTCOLLECTOR_OUTBOX_RELAY``.
    outboxed: int = 0
    #: Confirmed by the broker, but put into no queue by an exchange for which the
    #: settings allow that: ``"unrouted": "discard"``.
    unrouted: int = 0
    #: Why its retained and dead events were not confirmed, by target: at most
    #: 20 targets. It is ignored when results are compared.
    problems: tuple[TargetProblem, ...] = field(default=(), compare=False)

    @property
    def complete(self) -> bool:
        """Whether every event was confirmed. True if there was none.

        Those that no queue need get count as confirmed here.
        """
        return self == PublishResult(confirmed=self.confirmed, unrouted=self.unrouted)


@dataclass(frozen=True, slots=True)
class DeadEvent:
    """A dead-lettered event. It is not retried until ``events.retry()``."""

    event: Event
    #: Why the broker refused it the last time.
    reason: str
    #: How many times it was sent.
    attempts: int


class BrokerState(Word):
    """The broker's state, from best to worst."""

    #: Connected and responding.
    READY = "ready"
    #: Nothing was enqueued yet, so no connection was attempted.
    IDLE = "idle"
    #: The first connection is being established, or one with new credentials.
    CONNECTING = "connecting"
    #: A wait timed out, and no confirm has arrived since.
    STALLED = "stalled"
    #: It accepts nothing because of an alarm (``connection.blocked``); see
    #: https://www.rabbitmq.com/docs/connection-blocked.
    BLOCKED = "blocked"
    #: Unreachable; reconnecting with backoff.
    DOWN = "down"
    #: ``close()`` was called.
    CLOSED = "closed"

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to publish on."""
        return self in (BrokerState.READY, BrokerState.STALLED, BrokerState.BLOCKED)

    @property
    def may_confirm_soon(self) -> bool:
        """Whether a confirm can be expected shortly."""
        return self in (BrokerState.READY, BrokerState.IDLE, BrokerState.CONNECTING)

    @property
    def is_trouble(self) -> bool:
        """Whether the state causes events to be retained."""
        return self in (BrokerState.STALLED, BrokerState.BLOCKED, BrokerState.DOWN)


@dataclass(frozen=True, slots=True)
class Stats:
    """The books of one process: event counts since its start, and current state.

    At any moment, ``enqueued + adopted`` equals ``collected + delayed + in_flight +
    retained + dead + confirmed + unrouted + discarded + dropped + outboxed``.
    """

    #: Events enqueued by this process.
    enqueued: int = 0
    #: Events taken over from the spool files of dead processes, or from the outbox.
    adopted: int = 0
    #: Events in a collector now, not published yet.
    collected: int = 0
    #: Events held back now, since their delay has not passed.
    delayed: int = 0
    #: Events sent and not confirmed now.
    in_flight: int = 0
    #: Events waiting for a retry now.
    retained: int = 0
    #: Dead-lettered events now.
    dead: int = 0
    #: Events that the broker confirmed.
    confirmed: int = 0
    #: Events that their exchange has put into no queue, for which the settings allow
    #: that: ``"unrouted": "discard"``.
    unrouted: int = 0
    #: Events discarded on purpose, because their unit of work failed or was cleared, or
    #: their transaction was not committed.
    discarded: int = 0
    #: Events lost to a limit, expired, purged, or left at the end of the process.
    dropped: int = 0
    #: Events that are left to the outbox, by a commit or later: the process that holds
    #: their rows adopts them. That may be this one.
    outboxed: int = 0
    #: Rows of the outbox whose lease has run out while this process held them: other
    #: processes may send their events, too. The second copies are marked. Rows that
    #: were purged while it held them count, too.
    lost_leases: int = 0
    #: How many of the delayed, in-flight, retained and dead events are on disk.
    spooled: int = 0
    #: How many of them are rows of the outbox.
    committed: int = 0
    #: Events that should be on disk but are not, because writes fail.
    unspooled: int = 0
    #: Rows on disk of events that have reached a final state. If the process were
    #: killed now, they would be sent once more.
    unerased: int = 0
    #: Events of dead processes that were found but not adopted yet.
    unadopted: int = 0
    #: Damaged spool files that were renamed.
    quarantined: int = 0
    #: Spool files of dead processes that this process does not adopt, since their
    #: events are for another broker or virtual host, or of an app by another name that
    #: has no process: it may be this one before it was renamed. With the backlog in
    #: memory: the app's files from when it was a spool.
    strays: int = 0
    #: Events in these files, as far as they can be read.
    stray_events: int = 0
    #: Bytes of all events held in memory. Those of dead events do not count against
    #: ``EVENTCOLLECTOR_MAX_BYTES``.
    held_bytes: int = 0
    #: Seconds since the oldest in-flight or retained event was enqueued, or since its
    #: delay has passed; ``None``: there is none.
    oldest_age: float | None = None
    #: The broker's state.
    broker: BrokerState = BrokerState.IDLE
    #: The broker's current problem; ``""``: none.
    broker_error: str = ""
    #: The current problem of the spool; ``""``: there is none.
    spool_error: str = ""
    #: The current problem of the outbox; ``""``: there is none.
    outbox_error: str = ""
    #: How many targets the broker refuses events for, or is silent on while it
    #: confirms others.
    problem_targets: int = 0
    #: Those of them with the most events, at most 20, the worst first.
    problems: tuple[TargetProblem, ...] = ()

    @property
    def balanced(self) -> bool:
        """Whether the counts add up as stated above."""
        living = self.collected + self.delayed + self.in_flight + self.retained
        living += self.dead
        ended = self.confirmed + self.unrouted + self.discarded
        ended += self.dropped + self.outboxed
        return self.enqueued + self.adopted == living + ended

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values, for JSON."""
        return asdict(self) | {"broker": self.broker.value}

    def __add__(self, other: Stats) -> Stats:
        """The sum over two apps, with the worse broker state."""
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
            outbox_error=self.outbox_error or other.outbox_error,
            problems=worst_problems([*self.problems, *other.problems]),
        )


#: The most targets that are named at a time: they may be named after users or hosts.
MOST_PROBLEMS = 20


def worst_problems(problems: list[TargetProblem]) -> tuple[TargetProblem, ...]:
    """The *problems* with the most events, at most :data:`MOST_PROBLEMS`."""
    worst = sorted(problems, key=lambda problem: problem.events, reverse=True)
    return tuple(worst[:MOST_PROBLEMS])
