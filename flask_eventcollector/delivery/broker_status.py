"""The broker's state as this process knows it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..events import BrokerState
from .entries import BrokerChange

#: The most changes that are kept for a report. A broker that comes and goes while the
#: receivers block for long must not fill the memory; the latest changes count.
_MOST_CHANGES = 100


class BrokerStatus:
    """The broker's state, and its total uptime.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.state = BrokerState.IDLE
        self.error = ""
        #: No other state will follow, so waiting for one is pointless.
        self.is_final = False
        #: A wait timed out, and no confirm has arrived since.
        self.stalled = False
        #: When the broker last confirmed an event, and the latency of that confirm.
        self.heard_at = float("-inf")
        self.latency = 0.0
        self._since: float | None = None
        self._before = 0.0
        #: Changes that are not reported yet, and the latest state in there.
        self._changes: deque[BrokerChange] = deque(maxlen=_MOST_CHANGES)
        self._noted = self.state

    def change(self, state: BrokerState, error: str, *, final: bool = False) -> None:
        """Record a new state."""
        self._before = self.seconds()
        self._since = self._clock() if state is BrokerState.READY else None
        self.state, self.error, self.stalled = state, error, False
        self.is_final = final or state is BrokerState.CLOSED
        self._note_change()

    def take_change(self) -> BrokerChange | None:
        """Take the oldest change of :attr:`shown` that is not reported yet.

        A broker that stalls and recovers before this is called has not changed.
        """
        self._note_change()
        return self._changes.popleft() if self._changes else None

    def _note_change(self) -> None:
        shown = self.shown
        if shown is not self._noted:
            self._changes.append(BrokerChange(shown, self.error))
            self._noted = shown

    def confirmed(self, now: float, sent_at: float) -> None:
        """Record a confirm of an event."""
        self.heard_at, self.latency = now, now - sent_at
        self.stalled = False

    def seconds(self) -> float:
        """How many seconds the broker has been ready in total."""
        if self._since is None:
            return self._before
        return self._before + self._clock() - self._since

    @property
    def worth_waiting(self) -> bool:
        """Whether a confirm may be expected soon."""
        return self.state.may_confirm_soon and not self.stalled

    @property
    def shown(self) -> BrokerState:
        """The state to report."""
        may_stall = self.state in (BrokerState.READY, BrokerState.CONNECTING)
        return BrokerState.STALLED if self.stalled and may_stall else self.state

    def __str__(self) -> str:
        return describe(self.shown, self.error)


def describe(state: BrokerState, error: str) -> str:
    """The state in words, with its reason if there is one."""
    words = f"the broker is {state}"
    return f"{words}: {error}" if error else words
