"""What takes events: one file a kind, all with the face that is described here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..events import BrokerState
from .entries import Entry, Settlement


class BrokerCallbacks(Protocol):
    """Where a broker gets events, and where it brings its word. Never blocks."""

    def take(self, limit: int) -> list[Entry]:
        """What may be sent now, in order; it is in flight from here on."""

    def settle(self, settlements: Iterable[Settlement]) -> bool:
        """Bring outcomes; returns whether there is more to take now."""

    def on_state_change(self, state: BrokerState, error: str = "") -> None:
        """Tell a new state. After ``DOWN``, all that was in flight is settled first."""


class Broker(Protocol):
    """Takes events from an outlet, sends them and settles each of them once."""

    def start(self, callbacks: BrokerCallbacks) -> None:
        """Begin to connect; does not wait. Another call does nothing."""

    def wake(self) -> None:
        """There may be something to take. Any thread; does not wait."""

    def reconnect_now(self) -> None:
        """Try to connect now, whatever the delay. Any thread; does not wait."""

    def close(self, timeout: float) -> bool:
        """Stop within *timeout* seconds; returns whether it has stopped cleanly."""
