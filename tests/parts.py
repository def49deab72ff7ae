"""What the tests of single parts share: events, a clock, a ledger with its broker."""

from __future__ import annotations

import inspect
import itertools
import json
import linecache
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
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
from flask_eventcollector.events import BrokerState, Event, Outcome
from flask_eventcollector.stores.memory import MemoryStore
from tests.helpers import DEADLINE

#: Seconds after the first, second… failure in a row.
DELAY = 10.0


class Clock:
    """A monotonic clock that only moves when it is told to."""

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
) -> Event:
    """An event as the encoder makes one; *size* may claim to be anything."""
    body = json.dumps(payload).encode()
    return Event(
        id=id or f"{queue}-{next(_numbers)}",
        target_queue=queue,
        exchange=exchange,
        body=body,
        headers=headers or {},
        enqueued_at=datetime.now(timezone.utc),
        size=len(body) if size is None else size,
    )


_numbers = itertools.count(1)


def limits(**changes: Any) -> Limits:
    """Generous limits, with *changes*; delays grow by ten seconds a failure."""
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
    """A ledger whose clock and broker are the test.

    An event is named by one letter, its payload, which no other event of the test has.
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
            taken, notices = self.ledger.collect(
                entries, make_event(letter, queue, size=size)
            )
            assert taken
            self.ledger.defer(notices)
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
        """Be given what may be sent; returns the letters."""
        return letters(self.ledger.take(limit))

    def settle(
        self, letters: str, outcome: Outcome | None = Outcome.CONFIRMED, **more: Any
    ) -> bool:
        """Tell the outcome of some events, all at once."""
        return self.ledger.settle(
            Settlement(self[letter], outcome, **more) for letter in letters
        )

    def refuse(self, letters: str, outcome: Outcome = Outcome.RETURNED) -> bool:
        """Refuse some events."""
        return self.settle(letters, outcome, reason="no")

    def is_(self, state: BrokerState) -> None:
        """Tell the broker's state."""
        self.ledger.on_state_change(state)

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    def notices(self) -> list[tuple[str, str]]:
        """Take what there is to tell: kinds and letters."""
        return told(drain(self.ledger))

    def in_state(self, state: State) -> str:
        """The letters of the events in *state*."""
        return "".join(k for k, e in self.entries.items() if e.state is state)

    def books(self) -> dict[str, int]:
        """Where the events are, without the zeros; the books must balance."""
        return books(self.ledger)


def letters(entries: Iterable[Entry]) -> str:
    """The letters that the events of *entries* are named by."""
    return "".join(entry.event.payload for entry in entries)


def drain(ledger: Ledger) -> list[Notice]:
    """Take the ledger's news."""
    return ledger.take_deferred()


def told(notices: Iterable[Notice]) -> list[tuple[str, str]]:
    """Kinds and letters of *news*."""
    return [(item.kind.value, item.event.payload) for item in notices]


def books(holder: Ledger | Delivery) -> dict[str, int]:
    """Where the events are, without the zeros; the books must balance."""
    stats = holder.stats()
    assert stats.balanced, stats
    counts = {state.name.lower(): getattr(stats, state.name.lower()) for state in State}
    return {name: count for name, count in counts.items() if count}


class Told:
    """What an announcer has told, as the app's receivers would hear it."""

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
        """What the signal *name* was about so far."""
        with self._changed:
            heard = [about for signal, about in self._heard if signal == name]
        return [event.payload for about in heard for event in about["events"]]

    def reasons(self, name: str) -> list[str]:
        """The reasons that the signal *name* gave so far."""
        with self._changed:
            return [
                about.get("reason", about.get("error", ""))
                for signal, about in self._heard
                if signal == name
            ]

    def wait_for(self, name: str, payloads: Iterable[Any]) -> None:
        """Wait until the signal *name* was about just these."""
        expected = list(payloads)
        with self._changed:
            met = self._changed.wait_for(
                lambda: self.payloads(name) == expected, DEADLINE
            )
        assert met, f"{name}: {self.payloads(name)}, not {expected}"


@contextmanager
def delivering(
    broker: Broker,
    told: Told | None = None,
    *,
    confirm_timeout: float = DEADLINE,
    name: str = "test",
    backlog: Callable[[Ledger], Store] | None = None,
    **changes: Any,
) -> Iterator[Delivery]:
    """A delivery through *broker* that is closed at the end of the block."""
    delivery = make_delivery(
        broker,
        told,
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
    told: Told | None = None,
    *,
    confirm_timeout: float = DEADLINE,
    name: str = "test",
    backlog: Callable[[Ledger], Store] | None = None,
    **changes: Any,
) -> Delivery:
    """A delivery through *broker*."""
    ledger, reporter = Ledger(limits(**changes)), ThrottledLog()
    notifier = Notifier(told or Told(), reporter, ledger.defer)
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


@contextmanager
def thread(target: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run *target* beside the block, and to its end; raise what it raises."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            target()
        except BaseException as failure:
            failures.append(failure)

    beside = threading.Thread(target=run, daemon=True)
    beside.start()
    yield beside
    beside.join(DEADLINE)
    assert not beside.is_alive(), "the thread did not end"
    if failures:
        raise failures[0]


class Interruption:
    """Raises ``SystemExit`` at the *number*-th line that *modules* run in a block.

    :attr:`struck` tells whether the block came so far.
    """

    def __init__(
        self, number: int, modules: Iterable[ModuleType], spared: Iterable[str] = ()
    ) -> None:
        self._left = number
        self._files = {inspect.getsourcefile(module) for module in modules}
        self._spared = set(spared)
        self.struck = ""

    def __enter__(self) -> Interruption:
        # Coverage may be tracing, and goes on afterwards.
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
    """Interruptions at one line after the other, until one comes too late."""
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
    """A broker whose every word is the test's."""

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

    def close(self, timeout: float) -> bool:
        self.state = BrokerState.CLOSED
        self._note("close")
        return True

    def becomes(self, state: BrokerState, error: str = "") -> None:
        """Have the broker tell a new state."""
        self.state = state
        self.relay.on_state_change(state, error)

    def settle(self, outcome: Outcome = Outcome.CONFIRMED, **more: Any) -> bool:
        """Have the broker tell the same outcome of all that it has taken."""
        with self._changed:
            taken, self.taken = self.taken, []
        return self.relay.settle([Settlement(e, outcome, **more) for e in taken])

    def wait_for(self, events: int) -> None:
        """Wait until the broker has taken so many events."""
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
