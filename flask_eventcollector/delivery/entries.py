"""One event's life cycle in this process."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

from ..events import (
    BrokerState,
    Event,
    Outcome,
    PublishResult,
    Target,
    TargetProblem,
    Word,
)
from .signal import Signal

T = TypeVar("T")


class State(enum.IntEnum):
    """Where an event is in its life cycle.

    The first five are live, the others but the last are final.
    """

    COLLECTED = 0
    #: Handed over, and held back until its delay has passed.
    DELAYED = 1
    RETAINED = 2
    IN_FLIGHT = 3
    DEAD = 4
    CONFIRMED = 5
    DISCARDED = 6
    DROPPED = 7
    #: It is a row of the outbox now: whichever process holds the row sends it.
    OUTBOXED = 8
    #: The broker has taken it, and no queue gets it, which the settings allow.
    UNROUTED = 9
    #: Collected without the lock, and not in the books yet.
    NEW = 10

    @property
    def alive(self) -> bool:
        """Whether the event is still held."""
        return self <= State.DEAD

    @property
    def has_row(self) -> bool:
        """Whether the event's row, if it has one, is needed."""
        return self.alive or self is State.OUTBOXED


class Row(NamedTuple):
    """Where an event is on disk."""

    #: The file; opaque outside the store.
    journal: object
    number: int
    #: Whether a transaction of the application has committed it, so that it is not
    #: dropped in favour of another event.
    is_committed: bool = False
    #: When that transaction has written it, by the monotonic clock.
    written_at: float = 0.0


class _Rarely(Generic[T]):
    """An attribute that few entries have, kept in a dict that the others lack."""

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type[Entry], name: str) -> None:
        self._name = name

    def __get__(self, entry: Entry, owner: type[Entry]) -> T:
        if entry.rare is None:
            return self._default
        value: T = entry.rare.get(self._name, self._default)
        return value

    def __set__(self, entry: Entry, value: T) -> None:
        if entry.rare is not None:
            entry.rare[self._name] = value
        elif value != self._default:
            entry.rare = {self._name: value}


class Entry:
    """One event's life cycle in this process. Only the ledger changes it."""

    # A process may hold very many, so each takes little memory.
    __slots__ = (
        "attempts",
        "event",
        "handed_over_at",
        "has_failed",
        "is_stored",
        "possible_duplicate",
        "rare",
        "row",
        "sent_at",
        "sequence",
        "state",
        "waiter",
    )

    #: Whether the broker may have closed a channel or a connection because of it.
    is_suspect = _Rarely(False)
    #: Whether it was admitted beyond the limits, since a commit is expected to write it
    #: into the outbox.
    is_extra = _Rarely(False)
    refusals = _Rarely(0)
    #: When it was first refused: by the clock, and in seconds of broker uptime.
    refused_at = _Rarely(0.0)
    refused_since = _Rarely(0.0)
    reason = _Rarely("")
    #: The same for all with its unit of work, target and key; ``None``: it has no key.
    slot = _Rarely[object](None)
    #: The trace of the caller that waited when it was sent last, for observers.
    caller = _Rarely[object](None)

    def __init__(self, event: Event) -> None:
        self.event = event
        self.state = State.NEW
        #: Its permanent position in the target's order, assigned at the hand-over.
        self.sequence = 0
        self.attempts = 0
        self.handed_over_at = 0.0
        self.sent_at = 0.0
        #: Set once an attempt has ended in such a way that it may have been delivered.
        self.possible_duplicate = False
        #: Whether a failure was reported.
        self.has_failed = False
        #: Assigned before the row is written: the row exists only if `is_stored`.
        self.row: Row | None = None
        self.is_stored = False
        self.waiter: Waiter | None = None
        #: The attributes that few entries have.
        self.rare: dict[str, Any] | None = None

    @property
    def target(self) -> Target:
        """Where it goes."""
        return self.event.target

    @property
    def is_retained(self) -> bool:
        """Whether it is retained."""
        return self.state is State.RETAINED

    @property
    def is_in_flight(self) -> bool:
        """Whether it is in flight."""
        return self.state is State.IN_FLIGHT

    @property
    def is_committed(self) -> bool:
        """Whether it is a row of the outbox that a transaction has committed."""
        return self.row is not None and self.row.is_committed

    def refused(self, now: float, uptime: float) -> None:
        """Record that the broker refused it after *uptime* seconds of being ready."""
        if not self.refusals:
            self.refused_at, self.refused_since = now, uptime
        self.refusals += 1

    def reset_refusals(self) -> None:
        """Forget all refusals."""
        self.refusals = 0

    def redirect(self, queue: str) -> None:
        """Give it another target queue, which has not refused it yet."""
        target = self.event.target._replace(queue=queue)
        self.event = replace(self.event, target=target)
        self.reason = ""


class Settlement(NamedTuple):
    """The outcome of one event that the broker took."""

    entry: Entry
    #: ``None``: it was not sent.
    outcome: Outcome | None
    reason: str = ""
    #: The broker can never accept this event, so it is dead-lettered at once.
    final: bool = False
    #: The broker closed the channel or the connection while the event was in flight,
    #: and blamed the content. *final*: if this event is at fault, it is dead-lettered.
    suspect: bool = False
    #: Whether to pause the target. A refusal always does.
    back_off: bool = False
    #: Whether the broker may deliver the event although it refused it.
    possibly_taken: bool = False
    #: Whether the event was returned, and the settings say that nobody need get it.
    is_discarded: bool = False
    #: Seconds until this event is retried, regardless of others for the target;
    #: ``None``: the backoff decides.
    retry_after: float | None = None

    def alone(self) -> Settlement:
        """The settlement for an event that was in flight alone, so it is at fault."""
        if not self.suspect:
            return self
        return self._replace(outcome=Outcome.NACKED, suspect=False)

    def retry_at(self, now: float) -> float | None:
        """When to retry; ``None``: the backoff decides."""
        return None if self.retry_after is None else now + self.retry_after


class NoticeKind(Word):
    """What a notice reports; one for each signal about an outcome."""

    PUBLISHED = "events_published"
    FAILED = "publish_failed"
    DISCARDED = "events_discarded"
    DROPPED = "events_dropped"
    DEAD = "events_dead"
    UNROUTED = "events_unrouted"


#: Reasons for a discard that was not requested, which is therefore logged.
ABANDONED = "collector abandoned"
NEVER_PUBLISHED = "never published"
NOT_COMMITTED = "the transaction was not committed"

#: The reason for a discard by a transaction.
ROLLED_BACK = "the transaction was rolled back"

#: Reasons for a discard in favour of another event of the same unit of work.
REPLACED = "a later event has the same key"
REPEATED = "an earlier event has the same key"

#: Why events are dropped.
OVERFLOW = "overflow"
EXPIRED = "expired"
PURGED = "purged"
ENDED = "process ended before confirmation"
LATE = "published after the last flush"


class Notice(NamedTuple):
    """Something that happened to one event, to be logged and signalled."""

    kind: NoticeKind
    event: Event
    reason: str = ""
    outcome: Outcome | None = None
    attempt: int = 0
    elapsed: float = 0.0
    #: Whether this process reports a failure of the event for the first time.
    first: bool = False


class BrokerChange(NamedTuple):
    """A new state of the broker, to be signalled."""

    state: BrokerState
    #: The broker's problem; ``""``: none.
    error: str


#: Where an entry goes, as a key of :func:`itertools.groupby`: faster than its property.
target_of = attrgetter("event.target")


class Waiter:
    """A caller blocked in ``publish()``. The ledger's lock guards it."""

    def __init__(self, *, patient: bool, caller: object = None) -> None:
        #: A patient caller keeps waiting while the broker is unreachable.
        self.patient = patient
        #: The caller's trace, for observers.
        self.caller = caller
        self.entries: list[Entry] = []
        #: How many events the outbox had before.
        self.outboxed = 0
        self.pending: set[Entry] = set()
        self.notices: list[Notice] = []
        self.done = Signal()
        #: Has the notices about its events while it dispatches its own.
        self.successor: Waiter | None = None

    def succeed(self) -> Waiter:
        """Who has the notices about its events from now on; nobody waits there."""
        if self.successor is None:
            self.successor = Waiter(patient=False)
        return self.successor

    def settled(self, settlement: Settlement) -> None:
        """Take note of an outcome. A patient caller waits for a retry.

        The exception is an event whose target backs off: its retry is not imminent.
        """
        undecided = settlement.outcome in (None, Outcome.UNKNOWN)
        if not (self.patient and undecided and not settlement.back_off):
            self.resolve(settlement.entry)

    def resolve(self, entry: Entry) -> None:
        """Stop waiting for *entry*."""
        self.pending.discard(entry)
        if not self.pending:
            self.done.set()

    def leave_behind(self, target: Target) -> None:
        """Stop waiting for what waits to be sent to *target*: it backs off."""
        behind = [e for e in self.pending if e.target == target and e.is_retained]
        for entry in behind:
            self.resolve(entry)

    def look_again(self) -> None:
        """Stop waiting for what was decided in an interrupted step."""
        undecided = (State.RETAINED, State.IN_FLIGHT)
        self.pending = {entry for entry in self.pending if entry.state in undecided}
        if not self.pending:
            self.done.set()

    def give_up(self) -> None:
        """Stop waiting altogether."""
        self.pending.clear()
        self.done.set()

    def result(self, problems: tuple[TargetProblem, ...] = ()) -> PublishResult:
        """How the caller's events stand, and which *problems* their targets have."""
        states = [entry.state for entry in self.entries]
        return PublishResult(
            confirmed=states.count(State.CONFIRMED),
            in_flight=states.count(State.IN_FLIGHT),
            retained=states.count(State.RETAINED),
            dead=states.count(State.DEAD),
            dropped=states.count(State.DROPPED),
            delayed=states.count(State.DELAYED),
            outboxed=self.outboxed,
            unrouted=states.count(State.UNROUTED),
            problems=problems,
        )


def empty(entries: list[Entry], collected: Sequence[Entry]) -> None:
    """Remove what was *collected*, and all that has ended, from a list of *entries*.

    What is new stays: a destructor, or another thread, has just put it there.
    """
    count = len(entries)
    if count == len(collected):
        del entries[:count]
    else:
        entries[:count] = [e for e in entries[:count] if e.state is State.NEW]


def grouped(notices: Iterable[Notice]) -> list[list[Notice]]:
    """Group the *notices* that one signal can report, in order of arrival."""
    groups: dict[Any, list[Notice]] = {}
    for item in notices:
        key = (item.kind, item.outcome, item.attempt, item.reason, item.first)
        groups.setdefault(key, []).append(item)
    return list(groups.values())
