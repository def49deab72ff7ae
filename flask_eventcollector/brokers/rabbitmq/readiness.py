"""Whether events can be published on one connection, and what is wrong with it."""

from __future__ import annotations

import time

from ...delivery.broker import BrokerCallbacks
from ...events import BrokerState
from ...messages.wording import counted

#: The most problems of queues, exchanges and bindings that are named at a time.
_MOST_PROBLEMS = 10


class Readiness:
    """Reports a connection as ready or blocked, with what does not work on it."""

    def __init__(self, callbacks: BrokerCallbacks) -> None:
        self._callbacks = callbacks
        #: Current problems other than the connection's, by queue, exchange or binding.
        self._problems: dict[str, str] = {}
        #: Whether events could ever be published.
        self.was_ready = False
        self.is_ready = False
        self.is_blocked = False
        self.unblocked_at = float("-inf")

    @property
    def may_publish(self) -> bool:
        """Whether the broker takes events now."""
        return self.is_ready and not self.is_blocked

    def begin(self) -> None:
        """From now on, events can be published."""
        self.is_ready = self.was_ready = True

    def announce(self) -> None:
        """Report that it is ready."""
        problems = [*dict.fromkeys(self._problems.values())]
        more = len(problems) - _MOST_PROBLEMS
        if more > 0:
            problems[_MOST_PROBLEMS:] = [f"and {counted(more, 'more problem')}"]
        self._callbacks.on_state_change(BrokerState.READY, "; ".join(problems))

    def report_problem(self, about: str, problem: str) -> None:
        """Report a new *problem*, or with ``""`` that it is gone."""
        if self._problems.get(about, "") == problem:
            return
        self._problems[about] = problem
        if not problem:
            del self._problems[about]
        if self.may_publish:
            self.announce()

    def block(self, reason: str) -> None:
        """The broker has an alarm, and takes nothing."""
        self.is_blocked = True
        self._callbacks.on_state_change(BrokerState.BLOCKED, reason)

    def unblock(self) -> None:
        """The alarm is over."""
        self.is_blocked = False
        self.unblocked_at = time.monotonic()
        self.announce()
