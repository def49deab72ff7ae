"""A broker inside the process, for tests, for development and for a first look."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace

from ..delivery.broker import BrokerCallbacks
from ..delivery.entries import Entry, Settlement
from ..events import BrokerState, Event, Outcome
from ..messages.amqp_fields import POSSIBLE_DUPLICATE

#: Events that are kept for consumers in this process; beyond it the oldest go.
KEEP = 10_000
#: Events that are taken and settled in one go.
_TURN = 1000

_REASONS = {
    Outcome.NACKED: "the queue {queue!r} refused it",
    Outcome.RETURNED: "no queue {queue!r}",
    Outcome.UNKNOWN: "the connection ended before the confirm came",
}


@dataclass
class _Fault:
    """What happens to the next events instead of being taken."""

    outcome: Outcome
    queue: str | None
    left: float


class MemoryBroker:
    """Takes every event at once, in the thread that brings it.

    It accepts any queue. :meth:`get` reads what was published, and the methods below it
    make the broker behave as a real one does on a bad day.
    """

    def __init__(self, keep: int = KEEP) -> None:
        self._keep = keep
        self._callbacks: BrokerCallbacks | None = None
        self._state = BrokerState.READY
        self._error = ""
        self._faults: list[_Fault] = []
        #: One thread at a time takes and settles, so that order is kept.
        self._turn = threading.Lock()
        self._arrived = threading.Condition()
        self._queues: dict[str, deque[tuple[int, Event]]] = {}
        self._count = 0
        self._taken = 0

    def __repr__(self) -> str:
        return f"<MemoryBroker {self._state}, {self._count} event(s)>"

    # What a consumer in the same process calls.

    def get(self, queue: str, timeout: float = 0.0) -> Event | None:
        """Take the oldest event out of *queue*; waits at most *timeout* seconds."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._queues.get(queue), timeout)
            waiting = self._queues.get(queue)
            if not waiting:
                return None
            self._count -= 1
            event = waiting.popleft()[1]
            if not waiting:
                del self._queues[queue]
            return event

    def events(self, queue: str) -> tuple[Event, ...]:
        """What waits in *queue*, oldest first; it stays there."""
        with self._arrived:
            return tuple(event for _, event in self._queues.get(queue, ()))

    # What makes trouble on demand.

    def go_down(self) -> None:
        """Be away, as a broker is that can't be reached."""
        self._become(BrokerState.DOWN, "it was taken down")

    def come_up(self) -> None:
        """Be there again."""
        self._become(BrokerState.READY)

    def block(self) -> None:
        """Take nothing, as a broker does under a memory alarm."""
        self._become(BrokerState.BLOCKED, "it was blocked")

    def unblock(self) -> None:
        """Take events again."""
        self._become(BrokerState.READY)

    def fail_next(
        self, outcome: Outcome, *, n: float = 1, queue: str | None = None
    ) -> None:
        """Give the next *n* events (of *queue*) this *outcome* instead of a confirm."""
        if outcome is Outcome.CONFIRMED:
            raise ValueError("fail_next() takes an outcome other than CONFIRMED")
        with self._turn:
            self._faults.append(_Fault(outcome, queue, n))

    def refuse(self, queue: str, outcome: Outcome = Outcome.RETURNED) -> None:
        """Refuse all events of *queue* until :meth:`accept`."""
        self.fail_next(outcome, n=float("inf"), queue=queue)

    def accept(self, queue: str) -> None:
        """Take events of *queue* again."""
        with self._turn:
            self._faults = [f for f in self._faults if f.queue != queue]

    # What the library calls.

    def start(self, callbacks: BrokerCallbacks) -> None:
        self._callbacks = callbacks
        self._become(self._state, self._error)

    def wake(self) -> None:
        if self._callbacks is None:
            return
        with self._turn:
            self._take_all(self._callbacks)

    def reconnect_now(self) -> None:
        """There is nothing to connect to."""

    def close(self, timeout: float) -> bool:
        self._state = BrokerState.CLOSED
        return True

    @property
    def _takes(self) -> bool:
        return self._state is BrokerState.READY

    def _become(self, state: BrokerState, error: str = "") -> None:
        self._state, self._error = state, error
        if self._callbacks is not None:
            self._callbacks.on_state_change(state, error)
            self.wake()

    def _take_all(self, callbacks: BrokerCallbacks) -> None:
        taken: list[Entry] = []
        settlements: list[Settlement] = []
        try:
            while self._takes and (taken := callbacks.take(_TURN)):
                settlements.extend(map(self._settlement, taken))
                callbacks.settle(settlements)
                if any(s.outcome is Outcome.UNKNOWN for s in settlements):
                    # They may be tried again at once, and be as unknown as before:
                    # that is for another turn.
                    return
                settlements.clear()
        except BaseException:
            # The caller's thread is told to stop, and nobody else would settle the
            # rest. What is settled already takes no second word.
            rest = [self._failure(entry, Outcome.UNKNOWN) for entry in taken]
            callbacks.settle(settlements + rest)
            raise

    def _settlement(self, entry: Entry) -> Settlement:
        outcome = self._planned(entry.event.target_queue)
        if outcome is not Outcome.CONFIRMED:
            return self._failure(entry, outcome)
        self._store(entry)
        return Settlement(entry, outcome)

    def _failure(self, entry: Entry, outcome: Outcome) -> Settlement:
        reason = _REASONS[outcome].format(queue=entry.event.target_queue)
        return Settlement(entry, outcome, reason)

    def _planned(self, queue: str) -> Outcome:
        for fault in self._faults:
            if fault.left > 0 and fault.queue in (None, queue):
                fault.left -= 1
                return fault.outcome
        return Outcome.CONFIRMED

    def _store(self, entry: Entry) -> None:
        event = entry.event
        if entry.possible_duplicate:
            marked = {**event.headers, POSSIBLE_DUPLICATE: True}
            event = replace(event, headers=marked)
        with self._arrived:
            self._taken += 1
            waiting = self._queues.setdefault(event.target_queue, deque())
            waiting.append((self._taken, event))
            self._count += 1
            if self._count > self._keep:
                self._forget_oldest()
            self._arrived.notify_all()

    def _forget_oldest(self) -> None:
        queue = min(self._queues, key=lambda name: self._queues[name][0][0])
        self._queues[queue].popleft()
        self._count -= 1
        if not self._queues[queue]:
            del self._queues[queue]
