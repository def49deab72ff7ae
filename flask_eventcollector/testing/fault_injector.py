"""Makes a broker fail on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..delivery.broker import Broker
from ..delivery.entries import Entry, Settlement
from ..events import BrokerState, Outcome
from ..stores.filter import matches_name

#: Called with the entries that are about to reach the broker.
Watcher = Callable[[Sequence[Entry]], None]

_REASONS = {
    Outcome.NACKED: "the queue {queue!r} refused it",
    Outcome.RETURNED: "no queue {queue!r}",
    Outcome.UNKNOWN: "the connection was lost before the confirm arrived",
}
_NEVER = float("inf")


@dataclass
class Fault:
    """A planned failure of some of the next events."""

    outcome: Outcome
    #: Affects events for this queue (a name or a glob).
    queue: str = "*"
    #: How many more events it affects.
    left: float = 1
    #: The reason to report; ``{queue!r}`` is replaced by the event's target queue.
    reason: str = ""
    #: Retry the event only after a flush or a reconnect. Otherwise the backoff decides,
    #: as in production.
    hold: bool = False

    def apply_to(self, entry: Entry) -> bool:
        """Whether it affects *entry*; if so, the entry is counted."""
        if not (self.left and matches_name(entry.event.target_queue, self.queue)):
            return False
        self.left -= 1
        return True

    def settlement(self, entry: Entry) -> Settlement:
        """The settlement that the broker appears to send for *entry*."""
        words = self.reason or _REASONS[self.outcome]
        reason = words.format(queue=entry.event.target_queue)
        # A caller that waits for the next attempt gets it immediately.
        patient = entry.waiter is not None and entry.waiter.patient
        if not self.hold or (patient and self.outcome is Outcome.UNKNOWN):
            return Settlement(entry, self.outcome, reason)
        return Settlement(
            entry, self.outcome, reason, back_off=True, retry_after=_NEVER
        )


class Plan(NamedTuple):
    """The faults and the broker state that a test has planned."""

    faults: Sequence[Fault] = ()
    #: The simulated broker state, its error, and whether it is final; ``None``: the
    #: real state.
    pretended: tuple[BrokerState, str, bool] | None = None


class FaultInjector:
    """Intercepts a broker's callbacks to make it fail as planned.

    Without a plan, everything passes through. :meth:`of` returns a broker's injector.
    No method blocks. All are thread-safe.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = threading.RLock()
        #: Replaced, never mutated, since the broker's thread reads it.
        self._plan = Plan()
        #: Replaced, never mutated.
        self._watchers: Sequence[Watcher] = ()
        broker.relay.interceptor = self

    @classmethod
    def of(cls, broker: Broker) -> FaultInjector:
        """The injector of *broker*, which is installed if necessary."""
        known = broker.relay.interceptor
        return known if isinstance(known, FaultInjector) else cls(broker)

    # Planning faults.

    def fail_next(
        self, outcome: Outcome, *, n: float = 1, queue: str = "*", hold: bool = False
    ) -> None:
        """Settle the next *n* events for *queue* with *outcome*, without sending them.

        :param outcome: any :class:`~flask_eventcollector.Outcome` except ``CONFIRMED``.
        :param n: the number of events.
        :param queue: the name of a queue, or a glob.
        :param hold: see :attr:`Fault.hold`.
        :raises ValueError: *outcome* is ``CONFIRMED``, or no outcome.
        """
        outcome = Outcome(outcome)
        if outcome is Outcome.CONFIRMED:
            raise ValueError("fail_next() expects an outcome other than CONFIRMED")
        self.plan(Fault(outcome, queue, n, hold=hold))

    def plan(self, fault: Fault) -> None:
        """Add *fault* to the plan."""
        with self._lock:
            self._plan = self._plan._replace(faults=(*self._plan.faults, fault))

    def refuse(self, queue: str, outcome: Outcome = Outcome.RETURNED) -> None:
        """Refuse all events for *queue* until :meth:`accept`."""
        self.fail_next(outcome, n=float("inf"), queue=queue)

    def accept(self, queue: str) -> None:
        """Accept events for *queue* again."""
        with self._lock:
            left = tuple(f for f in self._plan.faults if f.queue != queue)
            self._plan = self._plan._replace(faults=left)

    def go_down(
        self, reason: str = "it was taken down", *, final: bool = False
    ) -> None:
        """Make the broker appear unreachable.

        :param reason: the error to report.
        :param final: no call waits for the broker to return.
        """
        self._pretend((BrokerState.DOWN, reason, final))

    def block(self) -> None:
        """Make the broker appear blocked by a resource alarm.

        See https://www.rabbitmq.com/docs/connection-blocked.
        """
        self._pretend((BrokerState.BLOCKED, "it was blocked", False))

    def come_up(self) -> None:
        """Show the broker's real state again; retained events are sent."""
        self._pretend(None)
        self._broker.wake()

    @property
    def plan_now(self) -> Plan:
        """The current plan, for :meth:`restore`."""
        return self._plan

    def restore(self, plan: Plan) -> None:
        """Return to an earlier plan."""
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

    # Watching.

    def watch(self, watcher: Watcher) -> None:
        """Call *watcher*, which must be fast, with all entries that pass."""
        with self._lock:
            self._watchers = (*self._watchers, watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Stop calling *watcher*."""
        with self._lock:
            self._watchers = tuple(w for w in self._watchers if w != watcher)

    # Called by the broker.

    def take(self, limit: int) -> list[Entry]:
        """See :class:`~flask_eventcollector.delivery.broker.BrokerCallbacks`."""
        passed: list[Entry] = []
        target = self._broker.relay.target
        while target is not None and not passed and self._plan.pretended is None:
            entries = target.take(limit)
            failed = {e: f.settlement(e) for e in entries if (f := self._planned(e))}
            passed = [entry for entry in entries if entry not in failed]
            target.settle(failed.values())
            unknown = any(s.outcome is Outcome.UNKNOWN for s in failed.values())
            if unknown or not entries:
                # Unknown events may be retried at once, and fail again in the same way.
                # That is left to the next call.
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
            (fault for fault in self._plan.faults if fault.apply_to(entry)), None
        )
