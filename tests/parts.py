"""Shared by the tests of single parts: events, a clock, a ledger with its broker."""

from __future__ import annotations

import inspect
import itertools
import json
import linecache
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import import_module
from types import FrameType, ModuleType
from typing import Any

from blinker import NamedSignal

from flask_eventcollector.delivery.broker import Broker, BrokerCallbacks, CallbackRelay
from flask_eventcollector.delivery.delivery import Delivery
from flask_eventcollector.delivery.entries import (
    Entry,
    Notice,
    Settlement,
    State,
    Waiter,
)
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.delivery.limits import Limits
from flask_eventcollector.delivery.log import ThrottledLog
from flask_eventcollector.delivery.notifier import Notifier
from flask_eventcollector.delivery.store import Store
from flask_eventcollector.events import (
    NO_PROPERTIES,
    BrokerState,
    Event,
    Outcome,
    Properties,
)
from flask_eventcollector.stores.memory import MemoryStore
from tests.helpers import DEADLINE

#: Seconds of delay per failure in a row.
DELAY = 10.0

#: The modules that change the state of the ledger, in its steps.
LEDGER_MODULES = [
    import_module(f"flask_eventcollector.delivery.{name}")
    for name in (
        *("ledger", "books", "intake", "lanes", "moves", "overflow", "owners"),
        *("problems", "reports", "settling", "suspects", "traffic", "waiters"),
    )
]


class Clock:
    """A monotonic clock that advances only on demand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def make_event(
    payload: Any = None,
    queue: str = "q",
    *,
    exchange: str = "",
    headers: Mapping[str, Any] | None = None,
    size: int | None = None,
    id: str | None = None,
    properties: Properties = NO_PROPERTIES,
) -> Event:
    """An event as the encoder creates it, with any *size*."""
    body = json.dumps(payload).encode()
    return Event.of(
        id=id or f"{queue}-{next(_numbers)}",
        target_queue=queue,
        exchange=exchange,
        body=body,
        headers=headers or {},
        enqueued_at=datetime.now(timezone.utc),
        size=len(body) if size is None else size,
        properties=properties,
    )


_numbers = itertools.count(1)


def limits(**changes: Any) -> Limits:
    """Generous limits, with *changes*; delays grow by ten seconds per failure."""
    values: dict[str, Any] = {
        "max_events": 1000,
        "max_bytes": 1 << 30,
        "max_dead_events": 100,
        "max_in_flight": 100,
        "drop_oldest": False,
        "reject": False,
        "dead_after": 3600.0,
        "delay": lambda failures: DELAY * failures,
    }
    return Limits(**{**values, **changes})


class Desk:
    """A ledger whose clock and broker are controlled by the test.

    Each event is named by one letter, its payload, which is unique in the test.
    """

    def __init__(self, state: BrokerState = BrokerState.READY, **changes: Any) -> None:
        self.clock = Clock()
        self.ledger = Ledger(limits(**changes), self.clock)
        self.ledger.on_state_change(state)
        self.entries: dict[str, Entry] = {}

    def __getitem__(self, letter: str) -> Entry:
        return self.entries[letter]

    def collect(self, letters: str, queue: str = "q", size: int = 1) -> list[Entry]:
        """Collect one event for each letter; returns the collector's list."""
        entries: list[Entry] = []
        for letter in letters:
            assert self.ledger.collect(entries, make_event(letter, queue, size=size))
        self.entries |= {entry.event.payload: entry for entry in entries}
        return entries

    def hand_over(
        self,
        letters: str,
        queue: str = "q",
        *,
        size: int = 1,
        waiter: Waiter | None = None,
    ) -> None:
        """Collect the events and hand them over."""
        self.ledger.hand_over(self.collect(letters, queue, size), waiter)

    def take(self, limit: int = 1000) -> str:
        """Take the events that may be sent; returns their letters."""
        return letters(self.ledger.take(limit))

    def settle(
        self, letters: str, outcome: Outcome | None = Outcome.CONFIRMED, **more: Any
    ) -> bool:
        """Settle some events at once."""
        return self.ledger.settle(
            Settlement(self[letter], outcome, **more) for letter in letters
        )

    def refuse(self, letters: str, outcome: Outcome = Outcome.RETURNED) -> bool:
        """Refuse some events."""
        return self.settle(letters, outcome, reason="no")

    def is_(self, state: BrokerState) -> None:
        """Change the broker's state."""
        self.ledger.on_state_change(state)

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    def notices(self) -> list[tuple[str, str]]:
        """Take the notices, as kinds and letters."""
        return kinds_and_letters(drain(self.ledger))

    def in_state(self, state: State) -> str:
        """The letters of the events in *state*."""
        return "".join(k for k, e in self.entries.items() if e.state is state)

    def books(self) -> dict[str, int]:
        """Where the events are, without the zeros; the books must balance."""
        return books(self.ledger)


def letters(entries: Iterable[Entry]) -> str:
    """The letters of *entries*."""
    return "".join(entry.event.payload for entry in entries)


def drain(ledger: Ledger) -> list[Notice]:
    """Take the ledger's deferred notices."""
    return notices_of(ledger.take_deferred)


def notices_of(step: Callable[..., object], *args: object) -> list[Notice]:
    """Run a ledger's *step*; returns its own notices."""
    notices: list[Notice] = []
    step(*args, into=notices)
    return notices


class Owner:
    """Stands for a collector."""


def abandon(holder: Ledger | Delivery, entries: list[Entry]) -> None:
    """Delete a collector that holds *entries*."""
    holder.watch(Owner(), entries)


def kinds_and_letters(notices: Iterable[Notice]) -> list[tuple[str, str]]:
    """The kinds and letters of *notices*."""
    return [(item.kind.value, item.event.payload) for item in notices]


def books(holder: Ledger | Delivery) -> dict[str, int]:
    """Where the events are, without the zeros; the books must balance."""
    stats = holder.stats()
    assert stats.balanced, stats
    names = [state.name.lower() for state in State if state is not State.NEW]
    counts = {name: getattr(stats, name) for name in names}
    return {name: count for name, count in counts.items() if count}


class SignalLog:
    """Records the signals that a notifier sends."""

    def __init__(self) -> None:
        self._heard: list[tuple[str, dict[str, Any]]] = []
        #: The names of the threads in which each signal was sent.
        self.threads: dict[str, set[str]] = {}
        self._changed = threading.Condition()

    def __call__(self, signal: NamedSignal, about: dict[str, Any]) -> None:
        with self._changed:
            self._heard.append((signal.name, about))
            thread = threading.current_thread().name
            self.threads.setdefault(signal.name, set()).add(thread)
            self._changed.notify_all()

    def payloads(self, name: str) -> list[Any]:
        """The payloads of the events in the signals *name* so far."""
        with self._changed:
            heard = [about for signal, about in self._heard if signal == name]
        return [event.payload for about in heard for event in about["events"]]

    def reasons(self, name: str) -> list[str]:
        """The reasons in the signals *name* so far."""
        with self._changed:
            return [
                about.get("reason", about.get("error", ""))
                for signal, about in self._heard
                if signal == name
            ]

    def wait_for(self, name: str, payloads: Iterable[Any]) -> None:
        """Wait until the signals *name* had exactly these payloads."""
        expected = list(payloads)
        with self._changed:
            met = self._changed.wait_for(
                lambda: self.payloads(name) == expected, DEADLINE
            )
        assert met, f"{name}: {self.payloads(name)}, not {expected}"


@contextmanager
def delivering(
    broker: Broker,
    signal_log: SignalLog | None = None,
    *,
    confirm_timeout: float = DEADLINE,
    name: str = "test",
    backlog: Callable[[Ledger], Store] | None = None,
    **changes: Any,
) -> Iterator[Delivery]:
    """A delivery to *broker*, which is closed at the end of the block."""
    delivery = make_delivery(
        broker,
        signal_log,
        confirm_timeout=confirm_timeout,
        name=name,
        backlog=backlog,
        **changes,
    )
    try:
        yield delivery
    finally:
        delivery.close(0)


def make_delivery(
    broker: Broker,
    signal_log: SignalLog | None = None,
    *,
    confirm_timeout: float = DEADLINE,
    name: str = "test",
    backlog: Callable[[Ledger], Store] | None = None,
    **changes: Any,
) -> Delivery:
    """A delivery to *broker*."""
    ledger, reporter = Ledger(limits(**changes)), ThrottledLog()
    notifier = Notifier(signal_log or SignalLog(), reporter, ledger.defer)
    return Delivery(
        ledger,
        broker,
        MemoryStore() if backlog is None else backlog(ledger),
        notifier,
        reporter,
        confirm_timeout=confirm_timeout,
        name=name,
    )


def collect(delivery: Delivery, *payloads: Any, queue: str = "q") -> list[Entry]:
    """Collect one event for each payload."""
    entries: list[Entry] = []
    for payload in payloads:
        delivery.collect(entries, make_event(payload, queue))
    return entries


class Interruption:
    """Raises ``SystemExit`` at the *number*-th line that *modules* run in a block.

    :attr:`struck` tells whether the block reached that line.
    """

    def __init__(
        self, number: int, modules: Iterable[ModuleType], spared: Iterable[str] = ()
    ) -> None:
        self._left = number
        self._files = {inspect.getsourcefile(module) for module in modules}
        self._spared = set(spared)
        self.struck = ""

    def __enter__(self) -> Interruption:
        # Coverage may be tracing, and continues afterwards.
        self._traced_by = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: Any) -> bool:
        sys.settrace(self._traced_by)
        return isinstance(exc_info[1], SystemExit)

    def _trace(self, frame: FrameType, what: str, arg: object) -> Any:
        code = frame.f_code
        if code.co_filename not in self._files or code.co_name in self._spared:
            return None
        if what == "line" and not self.struck and not _is_with(frame):
            self._left -= 1
            if self._left < 0:
                self.struck = f"{code.co_filename}:{frame.f_lineno}"
                raise SystemExit
        return self._trace


def _is_with(frame: FrameType) -> bool:
    # A trace function may interrupt a "with" between its block and its exit, where the
    # interpreter itself never does: a lock would stay locked.
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return line.lstrip().startswith("with ")


def interruptions(
    modules: Iterable[ModuleType], spared: Iterable[str] = ()
) -> Iterator[Interruption]:
    """Interruptions at each line in turn, until the block ends before one."""
    modules = list(modules)
    number = 0
    while True:
        interruption = Interruption(number, modules, spared)
        yield interruption
        if not interruption.struck:
            assert number, "nothing of the modules has run"
            return
        number += 1


class ManualBroker:
    """A broker that is controlled by the test."""

    def __init__(self, state: BrokerState = BrokerState.READY) -> None:
        self.state = state
        self.taken: list[Entry] = []
        self.calls: list[str] = []
        self.relay = CallbackRelay()
        self._changed = threading.Condition()

    def start(self, callbacks: BrokerCallbacks) -> None:
        self.relay.target = callbacks
        self._note("start")
        self.relay.on_state_change(self.state)

    def wake(self) -> None:
        if self.state is BrokerState.READY:
            with self._changed:
                self.taken += self.relay.take(1000)
        self._note("wake")

    def reconnect_now(self) -> None:
        self._note("reconnect_now")

    def reconnect_soon(self, seconds: float = 0.0) -> None:
        self._note("reconnect_soon")

    def close(self, timeout: float) -> bool:
        self.state = BrokerState.CLOSED
        self._note("close")
        return True

    def becomes(self, state: BrokerState, error: str = "") -> None:
        """Have the broker report a new state."""
        self.state = state
        self.relay.on_state_change(state, error)

    def settle(self, outcome: Outcome = Outcome.CONFIRMED, **more: Any) -> bool:
        """Have the broker settle all events that it has taken with the same outcome."""
        with self._changed:
            taken, self.taken = self.taken, []
        return self.relay.settle([Settlement(e, outcome, **more) for e in taken])

    def wait_for(self, events: int) -> None:
        """Wait until the broker has taken *count* events."""
        with self._changed:
            met = self._changed.wait_for(lambda: len(self.taken) >= events, DEADLINE)
        assert met, f"{letters(self.taken)} were taken, not {events}"

    def wait_for_call(self, name: str, times: int = 1) -> None:
        """Wait until one of the broker's methods was called so often."""
        with self._changed:
            met = self._changed.wait_for(
                lambda: self.calls.count(name) >= times, DEADLINE
            )
        assert met, f"{name} was not called: {self.calls}"

    def _note(self, call: str) -> None:
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()


def attributes(record: logging.LogRecord) -> dict[str, object]:
    """The library's attributes of a log record."""
    found = vars(record).items()
    return {name: v for name, v in found if name.startswith("eventcollector_")}
