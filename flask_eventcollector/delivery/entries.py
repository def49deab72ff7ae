"""One event's life in this process, with the words for what happens to it."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..events import Event, Outcome, PublishResult
from .signal import Signal


class State(enum.IntEnum):
    """What an event is doing. The first four are alive, the others are last words."""

    COLLECTED = 0
    RETAINED = 1
    IN_FLIGHT = 2
    DEAD = 3
    CONFIRMED = 4
    DISCARDED = 5
    DROPPED = 6

    @property
    def alive(self) -> bool:
        """Whether the event is still held."""
        return self <= State.DEAD


class Row(NamedTuple):
    """Where an event is on disk."""

    #: The file; only the backlog knows what that is.
    journal: object
    number: int


class Entry:
    """One event's life in this process. Only the ledger changes it."""

    __slots__ = (
        "attempts",
        "event",
        "handed_over_at",
        "is_stored",
        "is_suspect",
        "possible_duplicate",
        "reason",
        "refusals",
        "refused_at",
        "refused_since",
        "row",
        "sent_at",
        "sequence",
        "state",
        "target",
        "waiter",
    )

    def __init__(self, event: Event) -> None:
        self.event = event
        self.target = event.target
        #: Until the books know it, nobody has to care about it.
        self.state = State.DISCARDED
        #: The place in its target's order, for good; given at the hand-over.
        self.sequence = 0
        self.attempts = 0
        self.handed_over_at = 0.0
        self.sent_at = 0.0
        #: Set once an attempt has ended as *unknown*.
        self.possible_duplicate = False
        #: The broker may have ended a channel or a connection over it.
        self.is_suspect = False
        self.refusals = 0
        #: When it was first refused: by the clock, and in seconds of a ready broker.
        self.refused_at = 0.0
        self.refused_since = 0.0
        self.reason = ""
        #: Set before the row is written, so the row is there only if `is_stored`.
        self.row: Row | None = None
        self.is_stored = False
        self.waiter: Waiter | None = None

    @property
    def is_retained(self) -> bool:
        """Whether it is retained."""
        return self.state is State.RETAINED

    def refused(self, now: float, presence: float) -> None:
        """The broker has said no to it."""
        if not self.refusals:
            self.refused_at, self.refused_since = now, presence
        self.refusals += 1

    def reset_refusals(self) -> None:
        """Forget that it was ever refused."""
        self.refusals = 0


class Settlement(NamedTuple):
    """The broker's word on one event that it was given."""

    entry: Entry
    #: ``None``: it was not sent after all.
    outcome: Outcome | None
    reason: str = ""
    #: The broker can never take this event: it is dead at once.
    final: bool = False
    #: The broker ended the channel or the connection while the event was in flight, and
    #: said that something was wrong with what it got. *final*: were it known to be this
    #: event, it would be dead at once.
    suspect: bool = False
    #: The target is to be left alone for a while. A refusal always means that.
    back_off: bool = False
    #: Seconds until the next try, whatever becomes of others for the same target;
    #: ``None``: the backoff decides.
    retry_after: float | None = None

    def alone(self) -> Settlement:
        """The same for an event that was in flight alone: now it is known which one."""
        if not self.suspect:
            return self
        return self._replace(outcome=Outcome.NACKED, suspect=False)

    def retry_at(self, now: float) -> float | None:
        """When the next try is; ``None``: the backoff decides."""
        return None if self.retry_after is None else now + self.retry_after


class NoticeKind(str, enum.Enum):
    """What a piece of news is about, one for each signal that reports an outcome."""

    PUBLISHED = "events_published"
    FAILED = "publish_failed"
    DISCARDED = "events_discarded"
    DROPPED = "events_dropped"
    DEAD = "events_dead"


#: Reasons for a discard that nobody asked for, so they are logged.
ABANDONED = "its collector was abandoned"
NEVER_PUBLISHED = "it was never published"


class Notice(NamedTuple):
    """Something that happened to one event and is to be told."""

    kind: NoticeKind
    event: Event
    reason: str = ""
    outcome: Outcome | None = None
    attempt: int = 0
    elapsed: float = 0.0


class Waiter:
    """A caller of ``publish()`` that waits for its events, guarded by the ledger."""

    def __init__(self, *, patient: bool) -> None:
        #: A patient caller also waits while the broker is away.
        self.patient = patient
        self.entries: list[Entry] = []
        self.pending: set[Entry] = set()
        self.notices: list[Notice] = []
        self.done = Signal()

    def settled(self, settlement: Settlement) -> None:
        """An event has an outcome; a patient caller waits for the next try.

        That is, unless the broker said no, and the next try is a while away.
        """
        undecided = settlement.outcome in (None, Outcome.UNKNOWN)
        if not (self.patient and undecided and not settlement.back_off):
            self.resolve(settlement.entry)

    def resolve(self, entry: Entry) -> None:
        """Stop waiting for *entry*."""
        self.pending.discard(entry)
        if not self.pending:
            self.done.set()

    def give_up(self) -> None:
        """Stop waiting altogether."""
        self.pending.clear()
        self.done.set()

    def result(self) -> PublishResult:
        """How the caller's events stand."""
        states = [entry.state for entry in self.entries]
        return PublishResult(
            confirmed=states.count(State.CONFIRMED),
            in_flight=states.count(State.IN_FLIGHT),
            retained=states.count(State.RETAINED),
            dead=states.count(State.DEAD),
            dropped=states.count(State.DROPPED),
        )


def grouped(notices: Iterable[Notice]) -> list[list[Notice]]:
    """Group *news* that one signal can tell, in the order in which they came."""
    groups: dict[Any, list[Notice]] = {}
    for item in notices:
        key = (item.kind, item.outcome, item.attempt, item.reason)
        groups.setdefault(key, []).append(item)
    return list(groups.values())
