"""Both brokers, each with means to control it."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.brokers.rabbitmq import RabbitMQBroker
from flask_eventcollector.config.broker_url import parse_broker_urls
from flask_eventcollector.delivery.broker import Broker
from flask_eventcollector.delivery.entries import Entry, Settlement
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.events import BrokerState, Event, Outcome
from flask_eventcollector.testing import FaultInjector
from tests.helpers import DEADLINE
from tests.parts import limits, make_event
from tests.rabbitmq import RabbitMQNode


class Arrived(NamedTuple):
    """An event as a consumer sees it."""

    id: str
    body: bytes
    headers: Mapping[str, Any]


class BrokerCallbacks:
    """The broker's callbacks: a ledger, with a record of the calls."""

    def __init__(self, **changes: Any) -> None:
        self.ledger = Ledger(limits(**{"max_events": 100_000} | changes))
        self.states: list[BrokerState] = []
        self.taken: list[Entry] = []
        #: The ids and outcomes, in the order of the settlements.
        self.settled: list[tuple[str, Outcome | None]] = []
        self.reasons: dict[str, str] = {}
        #: Violations of the protocol by the broker.
        self.wrongs: list[str] = []
        self._changed = threading.Condition()

    # Called by the broker.

    def take(self, limit: int) -> list[Entry]:
        with self._changed:
            if self.states[-1:] != [BrokerState.READY]:
                self.wrongs.append(f"took events when it was {self.states[-1:]}")
            taken = self.ledger.take(limit)
            self.taken += taken
            self._changed.notify_all()
            return taken

    def settle(self, settlements: Iterable[Settlement]) -> bool:
        with self._changed:
            known = list(settlements)
            for entry, outcome, reason, *_ in known:
                if entry not in self.taken:
                    self.wrongs.append(f"settled {entry.event.id} a second time")
                    continue
                self.taken.remove(entry)
                self.settled.append((entry.event.id, outcome))
                self.reasons[entry.event.id] = reason
            more = self.ledger.settle(known)
            self._changed.notify_all()
            return more

    def on_state_change(
        self, state: BrokerState, error: str = "", *, final: bool = False
    ) -> None:
        with self._changed:
            if state is BrokerState.DOWN and self.taken:
                self.wrongs.append("went down before it had settled everything")
            self.states.append(state)
            self.ledger.on_state_change(state, error)
            self._changed.notify_all()

    # Called by the test.

    def give(
        self,
        queue: str,
        *payloads: Any,
        exchange: str = "",
        headers: Mapping[str, Any] | None = None,
    ) -> list[Event]:
        """Hand over one event for each payload."""
        entries: list[Entry] = []
        for payload in payloads:
            event = make_event(
                payload,
                queue,
                exchange=exchange,
                headers=headers,
                id=f"{payload}-{uuid4().hex}",
            )
            self.ledger.collect(entries, event)
        events = [entry.event for entry in entries]
        self.ledger.hand_over(entries)
        return events

    def outcomes(self, event: Event) -> list[Outcome | None]:
        """The outcomes of the event, one per attempt."""
        with self._changed:
            return [outcome for id, outcome in self.settled if id == event.id]

    def reason(self, event: Event) -> str:
        """The reason of the event's last settlement."""
        with self._changed:
            return self.reasons[event.id]

    def wait_for_state(self, state: BrokerState) -> None:
        """Wait until the broker has this state."""
        self._wait_for(lambda: self.states[-1:] == [state], f"the state {state}")

    def wait_for(self, outcome: Outcome, events: list[Event]) -> None:
        """Wait until the last outcome of each event is this one."""
        ids = [event.id for event in events]
        self._wait_for(
            lambda: all(dict(self.settled).get(id) is outcome for id in ids),
            f"{len(ids)} events to be {outcome.value}",
        )

    def wait_until_taken(self, events: list[Event]) -> None:
        """Wait until the broker has taken the events."""
        self._wait_for(
            lambda: {e.event.id for e in self.taken} >= {e.id for e in events},
            f"{len(events)} events to be taken",
        )

    def wait_until_settled(self) -> None:
        """Wait until the broker has settled all events that it has taken."""
        self._wait_for(lambda: not self.taken, "all events to be settled")

    def _wait_for(self, condition: Any, what: str) -> None:
        with self._changed:
            met = self._changed.wait_for(condition, DEADLINE)
        assert met, f"still waiting for {what}; {self.states}, {self.settled[-5:]}"


class Side(ABC):
    """One broker, with means to cause faults."""

    broker: Broker

    @abstractmethod
    def make_queue(self) -> str:
        """A queue that accepts events."""

    @abstractmethod
    def make_full_queue(self) -> str:
        """An existing queue that refuses events."""

    @abstractmethod
    def missing_queue(self) -> str:
        """The name of a queue that does not exist."""

    @abstractmethod
    def declare(self, queue: str) -> None:
        """Declare a missing queue."""

    @abstractmethod
    def arrived(self, queue: str) -> list[Arrived]:
        """The events in the queue, oldest first; the queue may be empty afterwards."""

    @abstractmethod
    def fall_silent(self) -> None:
        """Confirm nothing from now on."""

    @abstractmethod
    def go_down(self) -> None:
        """Become unreachable, even with events in flight."""

    @abstractmethod
    def come_up(self) -> None:
        """Become reachable."""

    @abstractmethod
    def block(self) -> None:
        """Accept nothing more, as with an alarm; the next event may reveal it."""

    @abstractmethod
    def unblock(self) -> None:
        """Accept events again."""

    def close(self) -> None:
        """Close the broker, and everything started for it."""
        self.broker.close(1)


class MemorySide(Side):
    """The broker inside the process."""

    def __init__(self) -> None:
        self.broker: MemoryBroker = MemoryBroker()
        self.faults = FaultInjector(self.broker)

    def make_queue(self) -> str:
        return _name("queue")

    def make_full_queue(self) -> str:
        queue = _name("full")
        self.faults.refuse(queue, Outcome.NACKED)
        return queue

    def missing_queue(self) -> str:
        queue = _name("missing")
        self.faults.refuse(queue)
        return queue

    def declare(self, queue: str) -> None:
        self.faults.accept(queue)

    def arrived(self, queue: str) -> list[Arrived]:
        events = self.broker.events(queue)
        return [Arrived(event.id, event.body, event.headers) for event in events]

    def fall_silent(self) -> None:
        # It settles within the same call, so this plans the next settlements.
        self.faults.fail_next(Outcome.UNKNOWN)

    def go_down(self) -> None:
        self.faults.go_down()

    def come_up(self) -> None:
        self.faults.come_up()

    def block(self) -> None:
        self.faults.block()

    def unblock(self) -> None:
        self.faults.come_up()


class RabbitMQSide(Side):
    """RabbitMQ, behind a proxy that can hold and cut connections."""

    def __init__(self, node: RabbitMQNode) -> None:
        self._node = node
        self._proxy = Proxy(node.port)
        self._queues: list[str] = []
        self.broker = RabbitMQBroker(
            parse_broker_urls(
                f"amqp://guest:guest@127.0.0.1:{self._proxy.port}/", "the test's URL"
            ),
            heartbeat=15,
            # Without this, it would not reconnect in time.
            delay=lambda failures: 10 * DEADLINE,
            name="contract",
        )

    def make_queue(self) -> str:
        return self._declare(_name("queue"))

    def make_full_queue(self) -> str:
        return self._declare(_name("full"), x_max_length=0, x_overflow="reject-publish")

    def missing_queue(self) -> str:
        return _name("missing")

    def declare(self, queue: str) -> None:
        self._declare(queue)

    def arrived(self, queue: str) -> list[Arrived]:
        return [
            Arrived(str(message.id), message.body, message.properties.headers or {})
            for message in self._node.get_all(queue)
        ]

    def fall_silent(self) -> None:
        self._proxy.hold()

    def go_down(self) -> None:
        self._proxy.cut()

    def come_up(self) -> None:
        self._proxy.restore()
        self.broker.reconnect_now()

    def block(self) -> None:
        self._node.memory_alarm(True)

    def unblock(self) -> None:
        self._node.memory_alarm(False)

    def close(self) -> None:
        super().close()
        self._proxy.close()
        for queue in self._queues:
            self._node.delete(queue)

    def _declare(self, queue: str, **arguments: str | int) -> str:
        self._queues.append(queue)
        return self._node.declare(queue, **arguments)


class Proxy:
    """Forwards bytes to a port of this machine, or not."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._answers = threading.Event()
        self._answers.set()
        self._lock = threading.Lock()
        self._is_up = True
        self._sockets: list[socket.socket] = []
        self._run(self._accept)

    def hold(self) -> None:
        """Hold back data from the target."""
        self._answers.clear()

    def cut(self) -> None:
        """End all connections, and each new one."""
        with self._lock:
            self._is_up = False
            sockets, self._sockets = self._sockets, []
        for each in sockets:
            _end(each)
        self._answers.set()

    def restore(self) -> None:
        """Forward everything again."""
        with self._lock:
            self._is_up = True

    def close(self) -> None:
        """Close it."""
        self.cut()
        _end(self._listener)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        with self._lock:
            if not self._is_up:
                _end(client)
                return
            server = socket.create_connection(("127.0.0.1", self._target), DEADLINE)
            server.settimeout(None)
            self._sockets += [client, server]
        self._run(lambda: _pipe(client, server, None))
        self._run(lambda: _pipe(server, client, self._answers))

    def _run(self, work: Any) -> None:
        threading.Thread(target=work, name="proxy", daemon=True).start()


def _pipe(
    source: socket.socket, sink: socket.socket, passing: threading.Event | None
) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if passing is not None:
                passing.wait(DEADLINE)
            sink.sendall(data)
    _end(source)
    _end(sink)


def _end(each: socket.socket) -> None:
    # A shutdown wakes a reading thread; a close does not.
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


def _name(kind: str) -> str:
    return f"contract-{kind}-{uuid4().hex[:8]}"
