"""What has happened to one event, where it is now, and what comes next."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..delivery.broker_status import describe
from ..events import Event, Stats, Target
from ..monitoring.history.records import Counts, Line, silence_of, store_errors
from ..stores.spool.admin.reading import Found
from .held import FoundHere
from .outbox import FoundRow
from .present import NOTHING_KNOWN, Present, Teller
from .wording import moment_of, wait


class _Waits(Protocol):
    """An event that waits, or is dead."""

    @property
    def event(self) -> Event: ...

    @property
    def state(self) -> str: ...

    @property
    def reason(self) -> str | None: ...

    @property
    def next_try(self) -> float | None: ...

    @property
    def is_left(self) -> bool: ...


F = TypeVar("F", bound=_Waits)


@dataclass(frozen=True)
class Story(Generic[F]):
    """One event's life, as far as it is known."""

    #: What the processes have written down, oldest first.
    lines: Sequence[Line]
    #: Where it waits; ``None``: nowhere, as far as it is known.
    waiting: F | None
    present: Present = NOTHING_KNOWN

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self.lines) or self.waiting is not None

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self._what in _FINAL and self.waiting is None

    @property
    def is_lost(self) -> bool:
        """Whether the process is gone that had it in its memory.

        If it was sent, the broker may have it.
        """
        return self._is_orphan and self.present.is_whole

    @property
    def next(self) -> str:
        """What comes next."""
        if self.waiting is None:
            return self._next_in_memory()
        return self._next_of(self.waiting)

    @property
    def trouble(self) -> str:
        """What keeps it from being sent at present; ``""``: nothing that is known."""
        is_stuck = self.waiting is not None and self.waiting.state in _STUCK
        if self.is_over or self._is_orphan or is_stuck or self._what in _FINAL:
            return ""
        is_left = self.waiting is not None and self.waiting.is_left
        if is_left and self.present.counts == []:
            return "no process of the app has handled an event and is running here"
        found = (self._troubles(counts) for counts in self._senders())
        return next(filter(None, map("; ".join, found)), "")

    @property
    def _what(self) -> str:
        return self.lines[-1].what if self.lines else ""

    @property
    def _is_orphan(self) -> bool:
        """Whether it was in the memory of a process that is gone."""
        teller = self.present.teller
        is_gone = teller is not None and not teller.is_running
        return is_gone and self.waiting is None and self._what not in _ELSEWHERE

    def _next_in_memory(self) -> str:
        teller = self.present.teller
        if self._is_orphan and teller is not None:
            return self._end_of_orphan(teller)
        if self._what == "dead" and teller is not None:
            return f"nothing, until process {teller.pid} calls events.retry()"
        if self._what == "outboxed" and self.present.outbox is not None:
            return _TAKEN
        left = max((line.due for line in self.lines), default=0.0) - time.time()
        if self._what == "handed over" and left > 0:
            return f"it is sent {wait(left)}"
        return _NEXT.get(self._what, _sent_by(0 if teller is None else teller.pid))

    def _end_of_orphan(self, teller: Teller) -> str:
        if not self.present.is_whole:
            return f"nothing, unless it is in what can't be read. {_gone(teller)}"
        if self._what == "sent":
            return f"nothing: the broker has it, or it is lost. {_gone(teller)}"
        return (
            f"nothing: it is lost. {_gone(teller)}. Only in its last second, which is"
            " not written down, may it have sent it"
        )

    def _next_of(self, waiting: F) -> str:
        if waiting.state in _STUCK:
            return _STUCK[waiting.state]
        if waiting.is_left:
            return "a process of the app adopts it, or 'flask events flush' does"
        # If its time has come, but not its turn, the broker may be unreachable.
        if waiting.next_try:
            again = "" if waiting.state == "delayed" else " again"
            return f"it is sent{again} {wait(waiting.next_try)}"
        if isinstance(waiting, FoundRow) and self._what not in _FINAL:
            return self._next_of_row(waiting)
        return _NEXT.get(self._what, _sent_by(_sender_of(waiting)))

    def _next_of_row(self, found: FoundRow) -> str:
        outbox = self.present.outbox
        if found.row.is_held:
            return self._next_of_held(found.row.due_in)
        if outbox is None or not outbox.needs_relay:
            return "a process of the app takes its row of the outbox, and sends it"
        if outbox.leader is None:
            return "nothing: no relay is active, so run 'flask events relay'"
        return f"the active relay sends it: {outbox.leader}"

    def _next_of_held(self, lease: float) -> str:
        """What comes next, while a process holds the row for *lease* more seconds."""
        teller = self.present.teller
        is_holder = teller is not None and self._what not in _BEFORE_A_CLAIM
        if teller is None or not is_holder or teller.is_running:
            return "the process that holds its row of the outbox sends it"
        return (
            f"process {teller.pid}, which holds its row of the outbox, is gone: another"
            f" one takes it {wait(lease)}"
        )

    def _senders(self) -> list[Counts]:
        """What the process has counted that sends it, or those of which one may."""
        every, teller = self.present.counts or [], self.present.teller
        if self.waiting is None:
            name = "" if teller is None else teller.name
            return [counts for counts in every if counts.process == name]
        pid = _sender_of(self.waiting)
        return [counts for counts in every if not pid or counts.pid == pid]

    def _troubles(self, counts: Counts) -> Iterator[str]:
        if silence := silence_of(counts):
            # What it has counted is no longer true.
            yield silence
            return
        books = counts.books
        if books.broker.is_trouble:
            yield describe(books.broker, books.broker_error)
        if self.waiting is None or not self.waiting.reason:
            yield from _refusals(books, self._target)
        yield from store_errors(books)

    @property
    def _target(self) -> Target | None:
        if self.waiting is not None:
            return self.waiting.event.target
        last = self.lines[-1] if self.lines else None
        return None if last is None else Target(last.exchange, last.queue)


def _refusals(books: Stats, target: Target | None) -> Iterator[str]:
    """Why the broker refuses events for *target*."""
    for problem in books.problems:
        if Target(problem.exchange, problem.queue) == target:
            left = problem.next_try or 0.0
            yield problem.reason + (f", sent again {wait(left)}" if left >= 1 else "")


def _sender_of(waiting: object) -> int:
    """The id of the process that sends it; 0: not known."""
    if isinstance(waiting, FoundHere):
        return os.getpid()
    if isinstance(waiting, Found) and waiting.owner.alive:
        return waiting.owner.process
    return 0


def _sent_by(pid: int) -> str:
    process = f"process {pid}" if pid else "its process"
    return f"{process} sends it once the broker takes it"


def _gone(teller: Teller) -> str:
    return (
        f"Process {teller.pid}, which had it in its memory, is gone; it was last heard"
        f" of at {moment_of(teller.heard_at)}"
    )


_DEAD = "nothing, until somebody retries it ('flask events retry') or purges it"
_EXPIRED = "nothing: its expires_in has passed, so it is dropped instead of sent"
#: By the state of an event that waits for nothing.
_STUCK = {"dead": _DEAD, "expired": _EXPIRED}

_FINAL = ("confirmed", "unrouted", "discarded", "dropped")
#: After which another process holds its row of the outbox, or none.
_BEFORE_A_CLAIM = ("enqueued", "outboxed")
#: After which no process has it in its memory.
_ELSEWHERE = (*_FINAL, "outboxed")
_TAKEN = "nothing: its row is no longer in the outbox, so it was sent, or dropped"

_NEXT = {
    "dead": _DEAD,
    "confirmed": "nothing: the broker has it",
    "unrouted": "nothing: the broker took it, and no queue gets it",
    "discarded": "nothing: its unit of work failed, or took it back",
    "dropped": "nothing: it is lost",
    "enqueued": "its unit of work publishes or discards it",
    "sent": "the broker confirms or refuses it",
    "outboxed": "the relay sends its row of the outbox, or the process that holds it",
}
