"""How the broker stands, as this process knows it."""

from __future__ import annotations

from collections.abc import Callable

from ..events import BrokerState


class BrokerStatus:
    """The broker's state, and for how long it was there.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.state = BrokerState.IDLE
        self.error = ""
        #: It stays away until somebody says otherwise, so nobody waits for it.
        self.held = False
        #: A wait ran out, and no confirm has come since.
        self.stalled = False
        self._since: float | None = None
        self._before = 0.0

    def change(self, state: BrokerState, error: str, *, held: bool = False) -> None:
        """Note a new state."""
        self._before = self.seconds()
        self._since = self._clock() if state is BrokerState.READY else None
        self.state, self.error, self.stalled = state, error, False
        self.held = held or state is BrokerState.CLOSED

    def seconds(self) -> float:
        """For how long the broker was ready, in all."""
        if self._since is None:
            return self._before
        return self._before + self._clock() - self._since

    @property
    def worth_waiting(self) -> bool:
        """Whether a confirm may be expected soon."""
        hopeful = (BrokerState.READY, BrokerState.IDLE, BrokerState.CONNECTING)
        return self.state in hopeful and not self.stalled

    @property
    def shown(self) -> BrokerState:
        """The state to show to people."""
        answering = (BrokerState.READY, BrokerState.CONNECTING)
        if self.stalled and self.state in answering:
            return BrokerState.STALLED
        return self.state

    def __str__(self) -> str:
        words = f"the broker is {self.shown}"
        return f"{words}: {self.error}" if self.error else words
