"""The block in which a test captures the fate of an app's events."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Literal

from flask import Flask

from ..app_state import AppState
from ..delivery.entries import State
from ..events import BrokerState, Outcome
from ..messages.wording import type_name
from .assertions import Assertions
from .captured import CapturedEvent, CapturedEvents, Fate
from .explaining import Situation
from .fault_injector import Fault, FaultInjector, Plan
from .matching import checked_queues
from .recording import Record

#: Seconds to wait for notices from before the block, and for the delivery of events
#: that a fault held back.
_PATIENCE = 2.0

#: The name of an outcome that is not a confirm.
Failure = Literal["nacked", "returned", "unknown"]

_FAILURES = [o.value for o in Outcome if o is not Outcome.CONFIRMED]


class Captured(Assertions):
    """The fate of one app's events since the start of a ``with`` block.

    ``events.capture()`` creates it, for one block. It receives the library's signals,
    so it works with every broker and backlog. Its lists and assertions never block, and
    also work after the block. To wait for background work, call :meth:`flush`.
    """

    def __init__(self, app: Flask, state: AppState, name: str = "captured") -> None:
        self._name = name
        self._state = state
        self._records = Record(app, state)
        self._started = False
        self._open = ExitStack()
        #: The faults planned before this capture planned any.
        self._before: Plan | None = None

    def __enter__(self) -> Captured:
        if self._started:
            raise RuntimeError(
                "this capture was used already: call events.capture() again"
            )
        self._started = True
        delivery = self._state.delivery_if_used()
        if delivery is not None:
            # What happened before the block is not part of it.
            delivery.notify_pending(_PATIENCE)
        self._open.enter_context(self._records.listening())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._open.close()
        finally:
            self._end_faults()

    def __repr__(self) -> str:
        counts = {fate.value: len(self._records.having(fate)) for fate in Fate}
        summary = ", ".join(f"{n} {fate}" for fate, n in counts.items() if n)
        return f"<Captured {summary or 'nothing'}>"

    # What was captured: one list for each fate.

    @property
    def enqueued(self) -> CapturedEvents:
        """All events that were enqueued, in order, regardless of their fate."""
        return self._record.having(Fate.ENQUEUED)

    @property
    def published(self) -> CapturedEvents:
        """The events that the broker confirmed, in order."""
        return self._record.having(Fate.PUBLISHED)

    @property
    def unrouted(self) -> CapturedEvents:
        """The events that no queue gets, which ``"unrouted": "discard"`` allows."""
        return self._record.having(Fate.UNROUTED)

    @property
    def discarded(self) -> CapturedEvents:
        """The events that were discarded on purpose, each with its reason."""
        return self._record.having(Fate.DISCARDED)

    @property
    def retained(self) -> CapturedEvents:
        """The events that are currently retained for retry."""
        return self._record.having(Fate.RETAINED)

    @property
    def dropped(self) -> CapturedEvents:
        """The events that were lost to a limit, or purged."""
        return self._record.having(Fate.DROPPED)

    @property
    def dead(self) -> CapturedEvents:
        """The dead-lettered events, which the broker kept refusing."""
        return self._record.having(Fate.DEAD)

    @property
    def broker_states(self) -> list[BrokerState]:
        """The broker's new states that were signalled, in order.

        They are signalled in the background: call :meth:`flush` first.
        """
        return self._record.broker_states()

    # Strict mode.

    def ignore(self, *queues: str) -> None:
        """Let no test fail because it made no assertion about events for *queues*.

        That concerns :meth:`assert_no_others` and strict mode, in every open capture of
        the app. The lists and all other assertions still have these events.

        :param queues: names of queues, or globs such as ``"auth.*"``.
        :raises TypeError: one of *queues* is not a str, or there are none.
        :raises ValueError: one of *queues* is empty.
        """
        self._record.ignore(checked_queues(queues, f"{self._name}.ignore"))

    # Background work.

    def flush(self, timeout: float = 5.0) -> bool:
        """Run background work to completion.

        Retries retained events once, waits for in-flight events, and dispatches all
        signals. That includes events that signal receivers enqueue in the meantime.
        With ``memory://``, it does not block. While :meth:`broker_down` is in effect,
        it waits only for events in flight.

        :param timeout: how long to block at most, in seconds.
        :returns: whether everything was delivered.
        """
        delivery = self._state.delivery_with_orphans()
        if delivery is None:
            return True
        deadline = time.monotonic() + timeout
        flushed, count, before = delivery.flush(timeout), -1, -2
        while count != before and time.monotonic() < deadline:
            before, count = count, delivery.notify_pending(deadline - time.monotonic())
            flushed = delivery.wait_until_flushed(deadline - time.monotonic())
        return flushed

    def send_delayed(self, timeout: float = 5.0) -> int:
        """Send all events that are held back, as if their delay had passed.

        :param timeout: how long to block at most, in seconds, until they are delivered.
        :returns: how many there were.
        """
        delivery = self._state.delivery_if_used()
        if delivery is None:
            return 0
        count = delivery.end_delays()
        self.flush(timeout)
        return count

    # Faults on demand, with any broker.

    def fail_next(
        self,
        n: int = 1,
        *,
        outcome: Outcome | Failure = Outcome.NACKED,
        queue: str = "*",
    ) -> None:
        """Make the next *n* events fail instead of reaching the broker.

        The events are retained. As in production, later events for the same target wait
        behind them. They are not retried before :meth:`flush`, :meth:`broker_up` or the
        end of the block. The exception is a ``publish(timeout=…)`` that waits for an
        *unknown* event, which retries it at once.

        :param n: the number of events, at least 1.
        :param outcome: ``"nacked"`` or ``"returned"``: the broker refuses the events.
            ``"unknown"``: the connection is lost before the confirm, so the events are
            sent again, marked as possible duplicates.
        :param queue: only affect events for this queue (a name or a glob).
        :raises TypeError: *n* is not an int.
        :raises ValueError: *outcome* is none of these, or *n* is less than 1.
        :raises RuntimeError: called outside the block.
        """
        failure = _failure(outcome)
        reason = f"the test called fail_next(): {failure.value}"
        self._faults().plan(Fault(failure, queue, _count(n), reason, hold=True))

    def broker_down(self) -> None:
        """Make the broker unreachable. Events are retained, and no call waits for it.

        :raises RuntimeError: called outside the block.
        """
        self._faults().go_down("the test called broker_down()", final=True)

    def broker_up(self) -> None:
        """Make the broker reachable again. To wait for a retry, call :meth:`flush`.

        :raises RuntimeError: called outside the block.
        """
        self._faults().come_up()

    # Inside.

    @property
    def _record(self) -> Record:
        if not self._started:
            raise RuntimeError(
                "the capture has not started: use 'with events.capture() as captured:'"
            )
        return self._records

    def _situation(self) -> Situation:
        listening = self._records.is_listening
        delivery = self._state.delivery_if_used()
        faults = FaultInjector.of(delivery.broker) if listening and delivery else None
        is_down = faults is not None and faults.plan_now.pretended is not None
        has_sessions = bool(self._state.sessions)
        return Situation(
            self._name, self._is_collected, listening, is_down, has_sessions
        )

    def _is_collected(self, captured: CapturedEvent) -> bool:
        delivery = self._state.delivery_if_used()
        states = {} if delivery is None else delivery.states([captured.id])
        return states.get(captured.id) is State.COLLECTED

    def _faults(self) -> FaultInjector:
        if not self._records.is_listening:
            raise RuntimeError("faults can be planned only inside the capture's block")
        faults = FaultInjector.of(self._state.delivery().broker)
        if self._before is None:
            self._before = faults.plan_now
        return faults

    def _end_faults(self) -> None:
        """Restore the broker's earlier faults, and deliver what was held back."""
        if self._before is None:
            return
        delivery = self._state.delivery()
        FaultInjector.of(delivery.broker).restore(self._before)
        delivery.flush(_PATIENCE)
        delivery.notify_pending(_PATIENCE)


def _failure(outcome: object) -> Outcome:
    if outcome not in _FAILURES:
        raise ValueError(
            f"outcome must be one of {', '.join(map(repr, _FAILURES))}, not {outcome!r}"
        )
    return Outcome(outcome)


def _count(n: object) -> int:
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n must be an int, not of type {type_name(n)}")
    if n < 1:
        raise ValueError(f"n must be 1 or more, not {n}")
    return n
