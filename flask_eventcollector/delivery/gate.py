"""What stands between ledger and broker, so that a test can let the broker fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..delivery.entries import Entry, Settlement
from ..delivery.ledger import Ledger
from ..events import BrokerState, Outcome

Watcher = Callable[[Sequence[Entry]], None]


@dataclass
class Fault:
    """What happens to some of the next events, instead of being sent."""

    outcome: Outcome
    #: Whether it happens to events for a queue.
    concerns: Callable[[str], bool]
    #: How many more events it happens to.
    left: int

    def befalls(self, entry: Entry) -> bool:
        """Whether it happens to *entry*; counts it then."""
        if not (self.left and self.concerns(entry.event.target_queue)):
            return False
        self.left -= 1
        return True


class Gate:
    """Lets all pass, unless a test has planned faults or has closed it.

    What has failed as planned is tried again only when all is reopened: by a flush, or
    when the broker is back.
    """

    def __init__(
        self, ledger: Ledger, settle: Callable[[Iterable[Settlement]], object]
    ) -> None:
        self._ledger = ledger
        self._settle = settle
        self._lock = threading.Lock()
        self._broker = (BrokerState.IDLE, "")
        #: What is planned. Never changed in place: the broker's thread reads it.
        self.faults: Sequence[Fault] = ()
        #: Why the broker seems to be away; ``""``: it doesn't.
        self.closed = ""
        #: Told of all that passes, by the broker's thread. Never changed in place.
        self._watchers: Sequence[Watcher] = ()

    def take(self, limit: int) -> list[Entry]:
        """See :class:`~flask_eventcollector.brokers.BrokerCallbacks`."""
        if not (self.faults or self.closed or self._watchers):
            return self._ledger.take(limit)
        passed: list[Entry] = []
        while not (passed or self.closed) and (taken := self._ledger.take(limit)):
            failed = {entry: s for entry in taken if (s := self._planned(entry))}
            self._settle(failed.values())
            passed = [entry for entry in taken if entry not in failed]
        for watch in self._watchers:
            watch(passed)
        return passed

    def on_state_change(self, state: BrokerState, error: str) -> None:
        """See :class:`~flask_eventcollector.brokers.BrokerCallbacks`."""
        with self._lock:
            self._broker = (state, error)
            if not self.closed:
                self._ledger.on_state_change(state, error)

    def close(self, reason: str) -> None:
        """Let the broker seem to be away, and nobody wait for it."""
        with self._lock:
            self.closed = reason
            self._ledger.on_state_change(BrokerState.DOWN, reason, held=True)

    def open(self) -> None:
        """Let the broker be seen as it is."""
        with self._lock:
            if self.closed:
                self.closed = ""
                self._ledger.on_state_change(*self._broker)

    def watch(self, watcher: Watcher) -> None:
        """Tell *watcher* of all that passes, in microseconds, until :meth:`unwatch`."""
        with self._lock:
            self._watchers = (*self._watchers, watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Tell *watcher* no more."""
        with self._lock:
            self._watchers = tuple(w for w in self._watchers if w != watcher)

    def _planned(self, entry: Entry) -> Settlement | None:
        fault = next((f for f in self.faults if f.befalls(entry)), None)
        if fault is None:
            return None
        reason = f"the test let it be {fault.outcome.value}"
        # A caller that waits for the next try gets it at once.
        patient = entry.waiter is not None and entry.waiter.patient
        hold = not (patient and fault.outcome is Outcome.UNKNOWN)
        return Settlement(entry, fault.outcome, reason, back_off=hold, on_hold=hold)
