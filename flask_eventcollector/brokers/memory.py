"""A broker inside the process, for tests, for development and for a first look."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from ..config.exchanges import DEFAULTS
from ..config.routing import Router
from ..config.topology import Topology
from ..delivery.broker import BrokerCallbacks, CallbackRelay
from ..delivery.entries import Entry, Settlement
from ..delivery.signal import Broadcast
from ..delivery.threads import call_holding, holds, note_turn
from ..events import BrokerState, Event, Outcome
from ..messages.amqp_fields import POSSIBLE_DUPLICATE
from ..messages.wording import counted
from . import no_route

#: The most events that are kept for consumers in this process; the oldest are removed.
KEEP = 10_000
#: How many events are taken and settled at a time.
_TURN = 1000


class MemoryBroker:
    """Confirms every event immediately, in the publishing thread.

    It puts each event into the queues that the settings bind to its exchange, and
    returns it if there are none. An exchange to which they bind nothing accepts any
    event, as the default exchange does, as if for a queue with the name of the routing
    key. :meth:`get` reads what was published. To make it fail like a real broker, use
    :class:`flask_eventcollector.testing.FaultInjector`.
    """

    def __init__(
        self,
        keep: int = KEEP,
        topology: Topology = Topology(),  # noqa: B008 (it can't be changed)
    ) -> None:
        self.relay = CallbackRelay()
        self._exchanges = topology.exchanges
        self._router = Router(topology)
        self._keep = keep
        self._closed = False
        #: Only one thread at a time takes and settles, which preserves the order.
        self._turn = threading.RLock()
        self._more = False
        #: Guards the queues.
        self._lock = threading.RLock()
        self._arrived = Broadcast()
        self._queues: dict[str, deque[tuple[int, Event]]] = {}
        self._count = 0
        self._taken = 0

    def __repr__(self) -> str:
        events = counted(self._count, "event")
        return f"<MemoryBroker {self.relay.reported[0]}, {events}>"

    # What a consumer in the same process calls.

    def get(self, queue: str, timeout: float = 0.0) -> Event | None:
        """Remove the oldest event from *queue*; waits at most *timeout* seconds."""
        if timeout > 0:
            deadline = time.monotonic() + timeout
            self._arrived.wait_for(lambda: self._queues.get(queue), deadline)
        with self._lock:
            waiting = self._queues.get(queue)
            if not waiting:
                return None
            self._count -= 1
            event = waiting.popleft()[1]
            if not waiting:
                del self._queues[queue]
            return event

    def events(self, queue: str) -> tuple[Event, ...]:
        """The events in *queue*, oldest first, without removing them."""
        with self._lock:
            return tuple(event for _, event in self._queues.get(queue, ()))

    # What the library calls.

    def start(self, callbacks: BrokerCallbacks) -> None:
        self.relay.target = callbacks
        self.relay.on_state_change(BrokerState.READY)
        self.wake()

    def wake(self) -> None:
        self._more = True
        if holds(self._turn):
            # A destructor has interrupted this thread's own turn.
            return
        note_turn(self._turn)
        # Nobody waits for the turn, since a destructor may hold any other lock. Whoever
        # has it sees that there is more, at the latest after it has let it go.
        while self._more and call_holding(self._turn, 0.0, self._take_turns):
            pass

    def _take_turns(self) -> None:
        while self._more:
            self._more = False
            self._take_all()

    def reconnect_now(self) -> None:
        """There is nothing to connect to."""

    def reconnect_soon(self, seconds: float = 0.0) -> None:
        """There is nothing to connect to."""

    def close(self, timeout: float) -> bool:
        self._closed = True
        return True

    def _take_all(self) -> None:
        settlements: list[Settlement] = []
        try:
            while not self._closed and (taken := self.relay.take(_TURN)):
                settlements.extend(map(self._publish, taken))
                self.relay.settle(settlements)
                settlements.clear()
        except BaseException:
            # The calling thread was asked to stop, and no other thread would settle the
            # rest. What was settled already is no longer in flight.
            self.relay.settle(settlements)
            reason = "the publishing thread was asked to stop"
            self.relay.on_state_change(BrokerState.DOWN, reason)
            self.relay.on_state_change(BrokerState.READY)
            raise

    def _publish(self, entry: Entry) -> Settlement:
        event = entry.event
        if entry.possible_duplicate:
            marked = {**event.headers, POSSIBLE_DUPLICATE: True}
            event = replace(event, headers=marked)
        queues = self._router.queues(event.exchange, event.target_queue, event.headers)
        if queues is None:
            queues = (event.target_queue,)
        self._put(event, queues)
        options = self._exchanges.get(event.exchange, DEFAULTS)
        if queues or not options.mandatory:
            return Settlement(entry, Outcome.CONFIRMED)
        return no_route.returned(entry, options)

    def _put(self, event: Event, queues: Sequence[str]) -> None:
        with self._lock:
            for queue in queues:
                self._taken += 1
                waiting = self._queues.setdefault(queue, deque())
                waiting.append((self._taken, event))
                self._count += 1
                if self._count > self._keep:
                    self._forget_oldest()
            self._arrived.wake_all()

    def _forget_oldest(self) -> None:
        queue = min(self._queues, key=lambda name: self._queues[name][0][0])
        self._queues[queue].popleft()
        self._count -= 1
        if not self._queues[queue]:
            del self._queues[queue]
