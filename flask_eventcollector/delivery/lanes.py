"""The waiting events of one target, with its backoff."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import chain

from .entries import Entry, State

#: The window of a target that refuses nothing. RabbitMQ stops reading from a connection
#: with 400 messages for a queue that accepts none. It counts those of the past, too, up
#: to 199 of them. https://www.rabbitmq.com/docs/flow-control
WIDE_OPEN = 200
#: A time that never comes.
NEVER = float("inf")
#: A refusing target is probed with at most 2 to this power events at a time.
_MOST_DOUBLINGS = 2


class Lane:
    """One target's waiting events, in order, and when the next may be sent.

    A refusal, for example by a missing or a full queue, closes the lane for a while.
    Then a window opens for a few probes: one event, then two, then four, so that a
    single refused event can't block the ones behind it. Each confirm widens the window
    by one, like TCP's slow start, so that a full queue is not flooded as soon as it
    accepts one event.

    A target that confirms nothing while others confirm is silent: it gets no more
    events, and those in flight do not count against the others' window.

    Not thread-safe: the ledger's lock guards it.
    """

    __slots__ = (
        "_closed_at",
        "_confirmed_at",
        "_delay",
        "_delayed",
        "_departed",
        "_failures",
        "_retry_at",
        "_returned",
        "_unheard_since",
        "_waiting",
        "_window",
        "attempts",
        "bytes_in_flight",
        "failed_at",
        "in_flight",
        "reason",
    )

    def __init__(self, delay: Callable[[int], float]) -> None:
        self._delay = delay
        #: Ordered by sequence. Entries that are no longer retained are skipped lazily.
        self._waiting: deque[Entry] = deque()
        #: Those that have returned to their places before others; ordered likewise.
        self._returned: list[tuple[int, Entry]] = []
        #: Refused individually; ordered by the time of the next retry.
        self._delayed: list[tuple[float, int, Entry]] = []
        #: How many have ended since those were removed.
        self._departed = 0
        self.in_flight = 0
        self.bytes_in_flight = 0
        #: Since when the target's events in flight have been waiting for an outcome.
        self._unheard_since = float("inf")
        self._closed_at = float("-inf")
        self._confirmed_at = float("-inf")
        self._failures = 0
        #: ``None``: the lane is open.
        self._retry_at: float | None = None
        self._window = WIDE_OPEN
        #: Of the event that failed last: how often it was sent, when last, and why.
        self.attempts = 0
        self.failed_at = 0.0
        self.reason = ""

    def __bool__(self) -> bool:
        return self.load > 0

    @property
    def backing_off(self) -> bool:
        """Whether the target refused an event and has confirmed none since."""
        return self._retry_at is not None

    @property
    def retry_at(self) -> float:
        """When the next event here may be sent."""
        return self._retry_at or 0.0

    @property
    def is_refused(self) -> bool:
        """Whether the target refuses events, be it single ones."""
        return self.backing_off or bool(self._delayed)

    @property
    def next_try(self) -> float | None:
        """When a refused event here may be sent again; ``None``: none was refused."""
        delayed = self._delayed[0][0] if self._delayed else None
        return delayed if self._retry_at is None else self._retry_at

    @property
    def load(self) -> int:
        """About how many events are here: some may have departed."""
        return self._length + self.in_flight

    @property
    def _length(self) -> int:
        return len(self._waiting) + len(self._returned) + len(self._delayed)

    @property
    def events(self) -> int:
        """How many events are here; takes time for each."""
        return sum(entry.is_retained for entry in self._entries()) + self.in_flight

    def _entries(self) -> Iterator[Entry]:
        returned = (entry for _, entry in self._returned)
        delayed = (entry for _, _, entry in self._delayed)
        return chain(self._waiting, returned, delayed)

    def failed(self, entry: Entry, reason: str) -> None:
        """Note that *entry* was sent and not confirmed."""
        self.attempts, self.failed_at, self.reason = (
            entry.attempts,
            entry.sent_at,
            reason,
        )

    @property
    def resting(self) -> bool:
        """Whether nothing here can be sent before some time has passed."""
        return self.backing_off or self._first() is None

    def is_silent(self, heard_at: float, patience: float) -> bool:
        """Whether a confirm for others is *patience* seconds newer than any here."""
        return heard_at >= self.silent_at(patience)

    def silent_at(self, patience: float) -> float:
        """When the events in flight have been waiting for *patience* seconds."""
        return self._unheard_since + patience

    def mute(self) -> None:
        """Send one event at a time until the target confirms one."""
        self._window = 1

    def sent(self, events: int, size: int, now: float) -> None:
        """Note that *events* of *size* bytes are in flight."""
        if not self.in_flight:
            self._unheard_since = now
        self.in_flight += events
        self.bytes_in_flight += size

    def landed(self, events: int, size: int, now: float) -> None:
        """Note that *events* of *size* bytes are no longer in flight."""
        self.in_flight -= events
        self.bytes_in_flight -= size
        self._unheard_since = now if self.in_flight else float("inf")

    def add(self, entry: Entry) -> None:
        """Queue *entry* by its sequence."""
        if not self._waiting or self._waiting[-1].sequence < entry.sequence:
            self._waiting.append(entry)
        else:
            heapq.heappush(self._returned, (entry.sequence, entry))

    def add_all(self, entries: Iterable[Entry]) -> None:
        """Queue *entries*, which are newer than all others."""
        self._waiting.extend(entries)

    def add_delayed(self, entry: Entry, retry_at: float) -> None:
        """Delay *entry*, which was refused individually, until *retry_at*."""
        heapq.heappush(self._delayed, (retry_at, entry.sequence, entry))

    def remove(self, entries: Container[Entry]) -> None:
        """Remove those of *entries* that wait here; takes time for each event here."""
        self._keep(lambda entry: entry not in entries)

    def departed(self) -> None:
        """Note that an event has ended while it waited here.

        It is removed once half of the events here may have ended, at the latest: while
        nothing can be sent, nobody else would remove it.
        """
        self._departed += 1
        if 2 * self._departed >= self._length:
            self._departed = 0
            self._keep(lambda entry: entry.is_retained)

    def _keep(self, is_kept: Callable[[Entry], bool]) -> None:
        self._waiting = deque(entry for entry in self._waiting if is_kept(entry))
        self._returned = [item for item in self._returned if is_kept(item[1])]
        self._delayed = [item for item in self._delayed if is_kept(item[2])]
        heapq.heapify(self._returned)
        heapq.heapify(self._delayed)

    def oldest(self) -> Entry | None:
        """The waiting event with the lowest sequence."""
        first = self._first()
        kept = [entry for _, _, entry in self._delayed if entry.is_retained]
        if first is not None:
            kept.append(first)
        return min(kept, key=lambda entry: entry.sequence, default=None)

    def take(
        self, now: float, room: int, room_bytes: int, *, alone: bool = False
    ) -> list[Entry]:
        """Remove what may be sent at *now*, in order, as far as room allows.

        *alone*: nothing is in flight, so the first event may have any size.
        """
        self._requeue_delayed(now)
        room = min(room, self._allowance(now))
        taken: list[Entry] = []
        while len(taken) < room and (entry := self._first()) is not None:
            if entry.event.size > room_bytes and not (alone and not taken):
                break
            taken.append(entry)
            self._remove_first(entry)
            room_bytes -= entry.event.size
        return taken

    def due(self, now: float) -> float | None:
        """When an event here could be sent (``<= now``: at once); ``None``: never."""
        times = [self._delayed[0][0]] if self._delayed else []
        if (self._waiting or self._returned) and self._window > self.in_flight:
            times.append(max(self._retry_at or now, now))
        return min(times, default=None)

    def confirmed(self, events: int, now: float) -> None:
        """The target confirmed *events*."""
        self._confirmed_at = now
        self._failures = 0
        self._retry_at = None
        self._window = min(self._window + events, WIDE_OPEN)

    def back_off(
        self, now: float, sent_at: float, retry_after: float | None = None
    ) -> None:
        """The target refused an event that was sent at *sent_at*.

        Events sent before the lane closed count as part of the failure that closed it.
        The lane stays closed for *retry_after* seconds; ``None``: for the backoff's
        delay. A confirm or :meth:`reopen` opens it at once.
        """
        if sent_at <= self._closed_at:
            return
        self._failures += 1
        self._closed_at = now
        delay = self._delay(self._failures) if retry_after is None else retry_after
        self._retry_at = now + delay
        self._window = 1 << min(self._failures - 1, _MOST_DOUBLINGS)

    def confirmed_since(self, moment: float) -> bool:
        """Whether the target confirmed an event after *moment*."""
        return self._confirmed_at > moment

    def reopen(self) -> None:
        """Allow everything here to be retried at once."""
        self._retry_at = None
        self._window = WIDE_OPEN
        self._requeue_delayed(NEVER)

    def _allowance(self, now: float) -> int:
        closed = self._retry_at is not None and now < self._retry_at
        return 0 if closed else self._window - self.in_flight

    def _requeue_delayed(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            self.add(heapq.heappop(self._delayed)[2])

    def _first(self) -> Entry | None:
        """The first that may be sent, unless it is delayed."""
        waiting, returned = self._waiting, self._returned
        while waiting and waiting[0].state is not State.RETAINED:
            waiting.popleft()
        while returned and returned[0][1].state is not State.RETAINED:
            heapq.heappop(returned)
        if not returned:
            return waiting[0] if waiting else None
        sequence, entry = returned[0]
        return waiting[0] if waiting and waiting[0].sequence < sequence else entry

    def _remove_first(self, entry: Entry) -> None:
        if self._waiting and self._waiting[0] is entry:
            self._waiting.popleft()
        else:
            heapq.heappop(self._returned)
