"""Lets a broker fail on demand, for tests and demonstrations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..delivery.broker import Broker
from ..delivery.entries import Entry, Settlement
from ..events import BrokerState, Outcome
from .matching import matches_name

#: Told of the entries that are about to reach the broker.
Watcher = Callable[[Sequence[Entry]], None]

_REASONS = {
    Outcome.NACKED: "the queue {queue!r} refused it",
    Outcome.RETURNED: "no queue {queue!r}",
    Outcome.UNKNOWN: "the connection ended before the confirm came",
}
_NEVER = float("inf")


@dataclass
class Fault:
    """What happens to some of the next events, instead of being sent."""

    outcome: Outcome
    #: The events for which queue: a name or a glob.
    queue: str = "*"
    #: How many more events it happens to.
    left: float = 1
    #: The reason to give; ``{queue!r}`` is the event's target queue.
    reason: str = ""
    #: Whether the event is retried only once everything is reopened: by a flush, or
    #: when the broker is back. Otherwise the backoff decides, as in production.
    hold: bool = False

    def befalls(self, entry: Entry) -> bool:
        """Whether it happens to *entry*; counts it then."""
        if not (self.left and matches_name(self.queue, entry.event.target_queue)):
            return False
        self.left -= 1
        return True

    def settlement(self, entry: Entry) -> Settlement:
        """What the broker seems to say about *entry*."""
        words = self.reason or _REASONS[self.outcome]
        reason = words.format(queue=entry.event.target_queue)
        # A caller that waits for the next attempt gets it at once.
        patient = entry.waiter is not None and entry.waiter.patient
        if not self.hold or (patient and self.outcome is Outcome.UNKNOWN):
            return Settlement(entry, self.outcome, reason)
        return Settlement(
            entry, self.outcome, reason, back_off=True, retry_after=_NEVER
        )


class Plan(NamedTuple):
    """What a test has in mind."""

    faults: Sequence[Fault] = ()
    #: How the broker seems to be doing: its state, why, and whether that is final.
    #: ``None``: as it is.
    pretended: tuple[BrokerState, str, bool] | None = None


class FaultInjector:
    """Stands between a broker and what it calls back, and lets it fail as planned.

    While nothing is planned, everything passes. A broker without an injector knows
    nothing of it.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = threading.RLock()
        #: Never changed in place: the broker's thread reads it.
        self._plan = Plan()
        #: Never changed in place, either.
        self._watchers: Sequence[Watcher] = ()
        broker.relay.interceptor = self

    @classmethod
    def of(cls, broker: Broker) -> FaultInjector:
        """The injector of *broker*, installed if there is none."""
        known = broker.relay.interceptor
        return known if isinstance(known, FaultInjector) else cls(broker)

    # What goes wrong.

    def fail_next(
        self, outcome: Outcome, *, n: float = 1, queue: str = "*", hold: bool = False
    ) -> None:
        """Give the next *n* events for *queue* this *outcome* instead of sending them.

        See :class:`Fault` for *queue* and *hold*. :raises ValueError: *outcome* is a
        confirm.
        """
        if outcome is Outcome.CONFIRMED:
            raise ValueError("fail_next() takes an outcome other than CONFIRMED")
        self.plan(Fault(outcome, queue, n, hold=hold))

    def plan(self, fault: Fault) -> None:
        """Let *fault* befall the next events that it is about."""
        with self._lock:
            self._plan = self._plan._replace(faults=(*self._plan.faults, fault))

    def refuse(self, queue: str, outcome: Outcome = Outcome.RETURNED) -> None:
        """Refuse all events for *queue* until :meth:`accept`."""
        self.fail_next(outcome, n=float("inf"), queue=queue)

    def accept(self, queue: str) -> None:
        """Let events for *queue* pass again."""
        with self._lock:
            left = tuple(f for f in self._plan.faults if f.queue != queue)
            self._plan = self._plan._replace(faults=left)

    def go_down(
        self, reason: str = "it was taken down", *, final: bool = False
    ) -> None:
        """Seem unreachable. *final*: nobody then waits for the broker to come back."""
        self._pretend((BrokerState.DOWN, reason, final))

    def block(self) -> None:
        """Take nothing, as a broker does under a memory alarm."""
        self._pretend((BrokerState.BLOCKED, "it was blocked", False))

    def come_up(self) -> None:
        """Let the broker be seen as it is; what was retained is sent."""
        self._pretend(None)
        self._broker.wake()

    @property
    def plan_now(self) -> Plan:
        """What is planned, for :meth:`restore`."""
        return self._plan

    def restore(self, plan: Plan) -> None:
        """Go back to an earlier plan."""
        with self._lock:
            self._plan = self._plan._replace(faults=plan.faults)
        if plan.pretended != self._plan.pretended:
            self._pretend(plan.pretended)

    def _pretend(self, state: tuple[BrokerState, str, bool] | None) -> None:
        relay = self._broker.relay
        with self._lock:
            self._plan = self._plan._replace(pretended=state)
            if relay.target is not None:
                new, error, final = state or (*relay.reported, False)
                relay.target.on_state_change(new, error, final=final)

    # Who watches.

    def watch(self, watcher: Watcher) -> None:
        """Tell *watcher* of all that passes, in microseconds, until :meth:`unwatch`."""
        with self._lock:
            self._watchers = (*self._watchers, watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Tell *watcher* no more."""
        with self._lock:
            self._watchers = tuple(w for w in self._watchers if w != watcher)

    # What the broker calls.

    def take(self, limit: int) -> list[Entry]:
        """See :class:`~flask_eventcollector.delivery.broker.BrokerCallbacks`."""
        passed: list[Entry] = []
        target = self._broker.relay.target
        while target is not None and not passed and self._plan.pretended is None:
            taken = target.take(limit)
            failed = {e: f.settlement(e) for e in taken if (f := self._planned(e))}
            passed = [entry for entry in taken if entry not in failed]
            target.settle(failed.values())
            unknown = any(s.outcome is Outcome.UNKNOWN for s in failed.values())
            if unknown or not taken:
                # What is unknown may be sent again at once, and be as unknown as
                # before: that is for another turn.
                break
        for watch in self._watchers:
            watch(passed)
        return passed

    def settle(self, settlements: Iterable[Settlement]) -> bool:
        """See :class:`~flask_eventcollector.delivery.broker.BrokerCallbacks`."""
        target = self._broker.relay.target
        return target is not None and target.settle(settlements)

    def on_state_change(
        self, state: BrokerState, error: str = "", *, final: bool = False
    ) -> None:
        """See :class:`~flask_eventcollector.delivery.broker.BrokerCallbacks`."""
        with self._lock:
            if self._plan.pretended is not None:
                state, error, final = self._plan.pretended
            target = self._broker.relay.target
            if target is not None:
                target.on_state_change(state, error, final=final)

    def _planned(self, entry: Entry) -> Fault | None:
        return next(
            (fault for fault in self._plan.faults if fault.befalls(entry)), None
        )
