"""The limits of a process, and who may use the reserve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..events import Event
from .books import Books
from .entries import Entry, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits and retry policy of a ledger."""

    max_events: int
    max_bytes: int
    max_dead_events: int
    max_in_flight: int
    #: At the limit: drop the oldest event instead of the newest.
    drop_oldest: bool
    #: At the limit: reject the newest event instead of dropping any.
    reject: bool
    #: Seconds of being refused after which an event is dead-lettered.
    dead_after: float
    #: Seconds to wait after that many consecutive failures.
    delay: Callable[[int], float]
    #: Whether a store on disk keeps unconfirmed events.
    durable: bool = False


class Room:
    """The free room within the limits.

    A tenth is a reserve, so that a refused target, or a thread that never publishes,
    can't take the room of all others.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self, limits: Limits, books: Books) -> None:
        self._limits = limits
        self._books = books
        self._reserve = limits.max_events // 10
        self._reserve_bytes = limits.max_bytes // 10
        #: In addition to the bytes of the other events.
        self._dead_bytes = limits.max_bytes // 4

    def has(self, events: int, size: int, *, reserve: bool) -> bool:
        """Whether *events* of *size* bytes in all fit; *reserve*: they may use it."""
        left, bytes_left = self.free()
        if not reserve:
            left -= self._reserve
            bytes_left -= self._reserve_bytes
        return events <= left and size <= bytes_left

    def for_arrivals(self, most: int, size: int) -> int:
        """How many events of *size* bytes fit without the reserve, at *most*."""
        left, bytes_left = self.free()
        left -= self._reserve
        bytes_left -= self._reserve_bytes
        return min(most, left, bytes_left // size)

    def can_ever_hold(self, event: Event) -> bool:
        """Whether *event* would fit if nothing else were held."""
        return event.size <= self._limits.max_bytes

    def free(self) -> tuple[int, int]:
        """How many more events, and how many more bytes, fit."""
        events, size = self._books.held()
        return self._limits.max_events - events, self._limits.max_bytes - size

    def to_adopt(self) -> tuple[int, int]:
        """How many more events, and bytes, of dead processes fit.

        Their dead events are read, too. Those beyond their limit take room from the
        others.
        """
        left, bytes_left = self.free()
        dead = self._books.count(State.DEAD) - self._limits.max_dead_events
        dead_bytes = self._books.bytes(State.DEAD) - self._dead_bytes
        return left - max(0, dead), bytes_left - max(0, dead_bytes)

    def for_rows(self) -> tuple[int, int]:
        """How many more rows of the outbox, and bytes, fit; likewise delayed events.

        Half of the limits is for events that are nowhere else.
        """
        left, bytes_left = self.to_adopt()
        max_events, max_bytes = self._limits.max_events, self._limits.max_bytes
        return left - max_events // 2, bytes_left - max_bytes // 2

    def is_share(self, collected: Sequence[Entry]) -> bool:
        """Whether one unit of work holds no more than the size of the reserve.

        Without a reserve, as with fewer than ten events, it may hold everything.
        """
        if len(collected) > self._reserve > 0:
            return False
        left = self._reserve_bytes or self._limits.max_bytes
        for entry in collected:
            left -= entry.event.size
        return left >= 0

    def has_too_many_dead(self) -> bool:
        """Whether the dead events exceed their limit."""
        return (
            self._books.count(State.DEAD) > self._limits.max_dead_events
            or self._books.bytes(State.DEAD) > self._dead_bytes
        )
