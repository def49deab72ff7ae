"""What happens to events, for observers such as metrics."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ..events import Event, Outcome, Stats, Target, Word
from .entries import Entry
from .log import INTERVAL
from .periodic_worker import TICK, PeriodicWorker, drain
from .records import Kind, log_failure

#: The most observations that wait for the observers, which may block.
_MOST_WAITING = 20_000
#: How many make the thread begin before its time.
_MANY = 5_000


class Happened(Word):
    """What happened to events."""

    ENQUEUED = "enqueued"
    HANDED_OVER = "handed over"
    ADOPTED = "adopted"
    SENT = "sent"
    CONFIRMED = "confirmed"
    #: The broker confirmed them, and no queue gets them, which the settings allow.
    UNROUTED = "unrouted"
    #: The broker refused them, or it is unknown whether it has them, or they could not
    #: be sent. They are retained, unless they are dead-lettered next.
    FAILED = "failed"
    DEAD = "dead"
    #: A dead event, or one that waited for its retry, is sent again at once.
    RETRIED = "retried"
    DISCARDED = "discarded"
    DROPPED = "dropped"
    #: They were left to the outbox.
    OUTBOXED = "outboxed"
    #: A caller of ``publish()`` has waited; it names no events.
    WAITED = "waited"
    #: There is a new connection to the broker; it names no events.
    CONNECTED = "connected"


class Observation(NamedTuple):
    """One thing that happened to events at the same time, in one step."""

    what: Happened
    #: For one target, unless they were handed over; empty if no observer needs them.
    events: Sequence[Event]
    #: When, in seconds since 1970.
    at: float
    reason: str = ""
    #: Of a failure; ``None``: they were not sent.
    outcome: Outcome | None = None
    #: How often they have been sent.
    attempt: int = 0
    #: Seconds since the hand-over, of the first of them; or how long the caller waited.
    elapsed: float = 0.0
    #: Seconds since they were sent last, of the first of them.
    since_sent: float = 0.0
    #: Where they were enqueued: a view or a line of code.
    where: str = ""
    #: Of an attempt: the trace of the caller that waited when they were sent, as
    #: :class:`Observations` was told to find it; ``None``: none waited.
    caller: object = None
    #: The node of the broker, as ``host:port``; ``""``: there was none.
    node: str = ""
    #: How many events there are.
    number: int = 0
    #: Of the first of them; ``None``: there is none.
    target: Target | None = None


class Observer(Protocol):
    """Is told what happens, about once a second, in a thread of its own."""

    #: What it wants to know.
    wants: frozenset[Happened]
    #: Whether it looks at the events. To keep them for it costs a request more than to
    #: note what happened, since the next ones can't use their memory.
    needs_events: bool

    def observe(self, observations: Sequence[Observation], stats: Stats) -> None:
        """Take note of what it wants of the time since the last call, and of the books.

        It may block. What it raises is logged.
        """

    def close(self) -> None:
        """This process observes nothing any more."""


class Observations:
    """Keeps what happens until the observers are told, in a thread of their own.

    Noting takes no lock and never blocks. An interrupted step of the ledger may be
    noted twice, or not at all: the books are right, this is a report.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        name: str,
        where: Callable[[], str] = str,
        caller: Callable[[], object] | None = None,
    ) -> None:
        self._observers = observers
        #: Where the current event is enqueued.
        self._where = where
        #: Finds the trace in which the calling thread is; ``None``: none is looked for.
        self.caller = caller
        self._wanted = frozenset[Happened]().union(*(o.wants for o in observers))
        self._needs_events = any(o.needs_events for o in observers)
        self._waiting: deque[Observation] = deque(maxlen=_MOST_WAITING)
        self._worker = PeriodicWorker(
            self._run_once,
            self._on_stop,
            f"eventcollector-observer-{name}",
            calls_user_code=True,
        )
        self._stats: Callable[[], Stats] = Stats
        self._node: Callable[[], str] = str
        #: When the next failure may be logged.
        self._next_line = float("-inf")

    def note(
        self,
        what: Happened,
        entries: Sequence[Entry],
        now: float | None = None,
        *,
        reason: str = "",
        outcome: Outcome | None = None,
        caller: object = None,
    ) -> None:
        """Note that something happened to *entries*, at *now* by the ledger's clock."""
        if what not in self._wanted or not entries:
            return
        first = entries[0]
        self._put(
            Observation(
                what,
                [entry.event for entry in entries] if self._needs_events else (),
                time.time(),
                reason,
                outcome,
                first.attempts,
                0.0 if now is None else now - first.handed_over_at,
                0.0 if now is None else now - first.sent_at,
                caller=caller or first.caller,
                node=self._node(),
                number=len(entries),
                target=first.target,
            )
        )

    def note_event(self, what: Happened, event: Event) -> None:
        """Note that something happened to *event*."""
        if what in self._wanted:
            where, target = self._where(), event.target
            self._put(
                Observation(
                    what, [event], time.time(), where=where, number=1, target=target
                )
            )

    def note_other(self, what: Happened, elapsed: float = 0.0) -> None:
        """Note what concerns no single event."""
        if what in self._wanted:
            self._put(Observation(what, (), time.time(), elapsed=elapsed))

    def _put(self, observation: Observation) -> None:
        self._waiting.append(observation)
        if len(self._waiting) == _MANY:
            self._worker.wake()

    def start(self, stats: Callable[[], Stats], node: Callable[[], str]) -> None:
        """Start the thread, once; *stats* are the books, *node* is the broker's.

        :raises RuntimeError: no thread can be started; a later call tries again.
        """
        self._stats, self._node = stats, node
        if self._observers:
            self._worker.start()

    def request_stop(self) -> None:
        """Stop within a second. Takes no lock, so a destructor may call it."""
        self._worker.request_stop()

    def close(self, timeout: float) -> None:
        """Tell the observers the rest, within *timeout* seconds."""
        if self._observers:
            self._worker.stop(timeout)

    # The thread.

    def _run_once(self) -> float:
        observations, stats = drain(self._waiting), self._stats()
        for observer in self._observers:
            try:
                wanted = [one for one in observations if one.what in observer.wants]
                observer.observe(wanted, stats)
            except Exception as error:
                self._log_failure(observer, error)
        return TICK

    def _on_stop(self) -> None:
        self._run_once()
        for observer in self._observers:
            try:
                observer.close()
            except Exception as error:
                self._log_failure(observer, error)

    def _log_failure(self, observer: Observer, error: Exception) -> None:
        if (now := time.monotonic()) >= self._next_line:
            self._next_line = now + INTERVAL
            log_failure(Kind.OBSERVER_FAILED, error, observer=type(observer).__name__)
