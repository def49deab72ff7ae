"""What has happened to one event, where it is now, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..monitoring.history_files import Line
from .wording import wait


class _Found(Protocol):
    """An event that waits, or is dead."""

    @property
    def state(self) -> str: ...

    @property
    def next_try(self) -> float | None: ...

    @property
    def is_left(self) -> bool: ...


F = TypeVar("F", bound=_Found)


@dataclass(frozen=True)
class Story(Generic[F]):
    """One event's life, as far as it is known."""

    #: What the processes have written down, oldest first.
    lines: Sequence[Line]
    #: Where it waits; ``None``: nowhere, as far as it is known.
    waiting: F | None

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self.lines) or self.waiting is not None

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen to it any more."""
        is_final = bool(self.lines) and self.lines[-1].what in _FINAL
        return is_final and self.waiting is None

    @property
    def next(self) -> str:
        """What comes next."""
        waiting = self.waiting
        what = self.lines[-1].what if self.lines else ""
        if waiting is None:
            return _NEXT.get(what, _SENT)
        if waiting.state == "dead":
            return _DEAD
        if waiting.state == "expired":
            return _EXPIRED
        if waiting.is_left:
            return "a process of the app adopts it, or 'flask events flush' does"
        # If its time has come, but not its turn, the broker may be unreachable.
        if waiting.next_try:
            again = "" if waiting.state == "delayed" else " again"
            return f"it is sent{again} {wait(waiting.next_try)}"
        return _NEXT.get(what, _SENT)


_DEAD = "nothing, until somebody retries it ('flask events retry') or purges it"
_EXPIRED = "nothing: its expires_in has passed, so it is dropped instead of sent"
_SENT = "its process sends it once the broker takes it"
_FINAL = ("confirmed", "unrouted", "discarded", "dropped")

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
