"""What a broker is to the library, and what the library is to a broker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..events import BrokerState
from .entries import Entry, Settlement


class BrokerCallbacks(Protocol):
    """Where a broker gets events, and where it reports. Never blocks."""

    def take(self, limit: int) -> list[Entry]:
        """What may be sent now, in order; it is in flight from here on."""

    def settle(self, settlements: Iterable[Settlement]) -> bool:
        """Report outcomes; returns whether there is more to take now."""

    def on_state_change(
        self, state: BrokerState, error: str = "", *, final: bool = False
    ) -> None:
        """Report a new state. After ``DOWN``, all that was in flight is settled first.

        *final*: no other will follow by itself, so there is nothing to wait for.
        """


class Broker(Protocol):
    """Takes events, sends them, and settles each of them once."""

    #: Through which it calls back.
    relay: CallbackRelay

    def start(self, callbacks: BrokerCallbacks) -> None:
        """Begin to connect; does not wait. Another call does nothing."""

    def wake(self) -> None:
        """There may be something to take. Any thread; does not wait."""

    def reconnect_now(self) -> None:
        """Try to connect now, whatever the delay. Any thread; does not wait."""

    def close(self, timeout: float) -> bool:
        """Stop within *timeout* seconds; returns whether it has stopped cleanly."""


class CallbackRelay:
    """Passes a broker's calls on, and remembers the state that it reported last."""

    def __init__(self) -> None:
        #: Set when the broker is started.
        self.target: BrokerCallbacks | None = None
        #: Called in the place of the target, and passes on what it likes.
        self.interceptor: BrokerCallbacks | None = None
        self.reported = (BrokerState.IDLE, "")

    def take(self, limit: int) -> list[Entry]:
        callbacks = self.interceptor or self.target
        return callbacks.take(limit) if callbacks is not None else []

    def settle(self, settlements: Iterable[Settlement]) -> bool:
        callbacks = self.interceptor or self.target
        return callbacks is not None and callbacks.settle(settlements)

    def on_state_change(
        self, state: BrokerState, error: str = "", *, final: bool = False
    ) -> None:
        self.reported = (state, error)
        callbacks = self.interceptor or self.target
        if callbacks is not None:
            callbacks.on_state_change(state, error, final=final)
