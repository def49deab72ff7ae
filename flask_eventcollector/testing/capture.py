"""The block in which a test captures what becomes of an app's events."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType

from flask import Flask

from ..app_state import AppState
from ..events import Outcome
from ..messages.wording import type_name
from .assertions import Assertions
from .captured import CapturedEvent, CapturedEvents, Fate
from .fault_injector import Fault, FaultInjector, Plan
from .recording import Record

#: Seconds for other threads to tell what came before the block, and for the broker to
#: take what a fault has kept from it.
_PATIENCE = 2.0

_FAILURES = [o.value for o in Outcome if o is not Outcome.CONFIRMED]


class Captured(Assertions):
    """What became of one app's events since the block began.

    ``events.capture()`` makes one, for one ``with`` block. It listens to the library's
    own signals, so the same holds for every broker and backlog. Its lists and
    assertions answer at once, also after the block; what happens in the background is
    run to its end by :meth:`flush`.
    """

    def __init__(self, app: Flask, state: AppState) -> None:
        self._state = state
        self._heard = Record(app, state)
        self._begun = False
        self._open = ExitStack()
        #: What was planned before this capture planned anything.
        self._before: Plan | None = None

    def __enter__(self) -> Captured:
        if self._begun:
            raise RuntimeError("this capture was used before: call events.capture()")
        self._begun = True
        delivery = self._state.delivery_if_used()
        if delivery is not None:
            # What happened before the block is not part of it.
            delivery.notify_pending(_PATIENCE)
        self._open.enter_context(self._heard.listening())
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
        counts = {fate.value: len(self._heard.having(fate)) for fate in Fate}
        told = ", ".join(f"{count} {fate}" for fate, count in counts.items() if count)
        return f"<Captured {told or 'nothing'}>"

    # What was captured: one list for each fate.

    @property
    def enqueued(self) -> CapturedEvents:
        """All events that were enqueued, in order, whatever became of them."""
        return self._record.having(Fate.ENQUEUED)

    @property
    def published(self) -> CapturedEvents:
        """What the broker has confirmed, in order."""
        return self._record.having(Fate.PUBLISHED)

    @property
    def discarded(self) -> CapturedEvents:
        """What was thrown away on purpose, each with its reason."""
        return self._record.having(Fate.DISCARDED)

    @property
    def retained(self) -> CapturedEvents:
        """What is kept for a later try now."""
        return self._record.having(Fate.RETAINED)

    @property
    def dropped(self) -> CapturedEvents:
        """What was lost to a limit, or purged."""
        return self._record.having(Fate.DROPPED)

    @property
    def dead(self) -> CapturedEvents:
        """What is set aside, because the broker went on refusing it."""
        return self._record.having(Fate.DEAD)

    # What happens in the background.

    def flush(self, timeout: float = 5.0) -> bool:
        """Run what happens in the background to its end.

        What is retained is tried once more, what is on its way is waited for, and all
        of it is heard of, also what the receivers of signals have enqueued meanwhile.
        Blocks for at most *timeout* seconds, for no time on ``memory://``, and while
        :meth:`broker_down` holds only for what is on its way. Returns whether
        everything was delivered.
        """
        delivery = self._state.delivery_if_used()
        if delivery is None:
            return True
        deadline = time.monotonic() + timeout
        worked, told, before = delivery.flush(timeout), -1, -2
        while told != before and time.monotonic() < deadline:
            before, told = told, delivery.notify_pending(deadline - time.monotonic())
            worked = delivery.wait_until_flushed(deadline - time.monotonic())
        return worked

    # Faults on demand, whatever the broker.

    def fail_next(
        self,
        n: int = 1,
        *,
        outcome: Outcome | str = Outcome.NACKED,
        queue: str = "*",
    ) -> None:
        """Let the next *n* events fail, instead of reaching the broker.

        :param outcome: ``"nacked"`` or ``"returned"``: the broker refuses them;
            ``"unknown"``: the connection ends before the confirm, so that they are sent
            again, marked as possible duplicates.
        :param queue: only events for that queue; a name or a glob.
        :raises ValueError: there is no such outcome, or *n* is not above 0.

        They are retained. As always, later events for the same target wait behind them.
        Nothing of it is tried again before :meth:`flush`, :meth:`broker_up` or the end
        of the block; only a ``publish(timeout=…)`` that waits for an *unknown* event
        sends it again at once.
        """
        failure = _failure(outcome)
        reason = f"the test let it be {failure.value}"
        self._faults().plan(Fault(failure, queue, _count(n), reason, hold=True))

    def broker_down(self) -> None:
        """Let the broker be away: everything is retained, and nobody waits."""
        self._faults().go_down("the test called broker_down()", final=True)

    def broker_up(self) -> None:
        """Let the broker be there again; :meth:`flush` waits for what was retained."""
        self._faults().come_up()

    # Inside.

    @property
    def _record(self) -> Record:
        if not self._begun:
            raise RuntimeError(
                "nothing is captured yet: write 'with events.capture() as captured:'"
            )
        return self._heard

    def _is_collected(self, captured: CapturedEvent) -> bool:
        delivery = self._state.delivery_if_used()
        return delivery is not None and delivery.is_collected(captured.event)

    def _faults(self) -> FaultInjector:
        if not self._heard.is_listening:
            raise RuntimeError("faults can be planned only inside the capture's block")
        faults = FaultInjector.of(self._state.delivery().broker)
        if self._before is None:
            self._before = faults.plan_now
        return faults

    def _end_faults(self) -> None:
        """Leave the broker as it was found, and nothing behind."""
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
