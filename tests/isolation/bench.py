"""A shop whose calls are cut short, and what must hold of it afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flask_eventcollector.app_state import state_of
from flask_eventcollector.collecting import scopes
from flask_eventcollector.delivery.delivery import Delivery
from flask_eventcollector.events import Event, Stats
from tests.helpers import DEADLINE, SIGNALS, Shop, wait_until

#: Seconds that a good request may take afterwards, on a busy machine.
PROMPT = 5.0

#: What can be cut, and whether each cut needs a process's first event, or its end.
OPERATIONS = {
    "request": False,
    "publish": False,
    "clear": False,
    "block": False,
    "failing_block": False,
    "decorated": False,
    "flush": False,
    "look": False,
    "first": True,
    "end": True,
    "late": True,
}

_LAST_WORDS = ("events_published", "events_discarded", "events_dropped")


class Bench:
    """A shop at work. Each event has its last word: a signal."""

    def __init__(self, **settings: Any) -> None:
        self._before = set(threading.enumerate())
        self.shop = Shop(**settings)
        self.events = self.shop.events
        #: The ids of the events about whose end a signal was sent.
        self.told: set[str] = set()
        #: How many events' signals were lost with a receiver's call that was cut.
        self.unheard = 0
        for name in _LAST_WORDS:
            SIGNALS[name].connect(self._hear, sender=self.shop)
        self.shop.add_url_rule("/order", view_func=self._order)
        self._client = self.shop.test_client()

    def close(self) -> None:
        """Close the shop."""
        self.events.close(5)
        for name in _LAST_WORDS:
            SIGNALS[name].disconnect(self._hear, sender=self.shop)

    def run(self, operation: str) -> None:
        """Do what is to be cut."""
        work: Callable[[], object] = getattr(self, operation)
        work()

    def prepare(self, operation: str) -> None:
        """Do what comes before it, and is not cut."""
        if operation == "end":
            self.publish()
            self.enqueue()
        elif operation == "late":
            self.publish()
            self.events.close(DEADLINE)
        elif operation != "first":
            self.request()

    def check(self, operation: str) -> None:
        """Check that nothing is stuck or lost after a cut."""
        held = [lock for lock in self._locks() if lock._is_owned()]
        assert not held, held
        if operation in ("end", "late"):
            self.events.close(DEADLINE)
            wait_until(lambda: not self._threads(), "all threads have ended")
        else:
            self._check_good_request()
        wait_until(lambda: _is_idle(self.events.stats()), "no event is under way")
        stats = self.events.stats()
        assert stats.balanced, stats
        assert stats.dead == 0, stats
        assert not self._delivery._ledger._waiters
        assert not self._delivery._ledger._changed._waiting
        due = stats.enqueued - self.unheard
        wait_until(lambda: len(self.told) == due, "each event has its word")

    def enqueue(self) -> None:
        for number in range(2):
            self.events.enqueue_event(number, "q")

    # Operations.

    def request(self) -> None:
        self._client.get("/order")

    def publish(self) -> None:
        self.enqueue()
        self.events.publish()

    def clear(self) -> None:
        self.enqueue()
        self.events.clear_events_to_publish()

    def block(self) -> None:
        with self.events.auto_publish():
            self.enqueue()

    def failing_block(self) -> None:
        with suppress(ZeroDivisionError), self.events.auto_publish():
            self.enqueue()
            raise ZeroDivisionError

    def decorated(self) -> None:
        self.events.auto_publish()(self.enqueue)()

    def flush(self) -> None:
        self.enqueue()
        self.events.publish(0)
        self.events.flush(DEADLINE)

    def look(self) -> None:
        self.events.stats()
        self.events.dead()
        self.events.retry()
        self.events.purge([])
        _ = self.events.events_to_publish

    def first(self) -> None:
        self.publish()

    def end(self) -> None:
        self.events.close(DEADLINE)

    def late(self) -> None:
        self.publish()

    def _check_good_request(self) -> None:
        before = self.events.stats().confirmed
        began = time.monotonic()
        assert self._client.get("/order").status_code == 200
        assert time.monotonic() - began < PROMPT
        wait_until(lambda: self.events.stats().confirmed >= before + 2, "its confirms")
        # What was enqueued outside of a request waits for the thread's next publish().
        self.events.publish()
        assert not list(scopes._blocks())

    def _order(self) -> str:
        self.enqueue()
        return "done"

    def _hear(self, _sender: object, events: tuple[Event, ...], **_: object) -> None:
        self.told |= {event.id for event in events}

    @property
    def _delivery(self) -> Delivery:
        state = state_of(self.shop)
        assert state is not None
        return state.delivery()

    def _locks(self) -> list[Any]:
        delivery = self._delivery
        parts = [*vars(delivery).values(), delivery]
        held = [
            v
            for part in parts
            if hasattr(part, "__dict__")
            for v in vars(part).values()
        ]
        return [lock for lock in held if isinstance(lock, type(threading.RLock()))]

    def _threads(self) -> list[str]:
        new = set(threading.enumerate()) - self._before
        return [t.name for t in new if t.name.startswith("eventcollector-")]


def _is_idle(stats: Stats) -> bool:
    return not (stats.collected or stats.retained or stats.in_flight)
