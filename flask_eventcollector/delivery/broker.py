"""The protocol between the library and a broker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from ..events import BrokerState
from .entries import Entry, Settlement

#: Seconds for which a process with something to send is in use after each use.
IN_USE = 10.0


class Connection(NamedTuple):
    """A connection to a broker on which events could be sent."""

    #: Which one it is of this process, from 1.
    number: int
    #: The host and the port of the node.
    node: str


class BrokerCallbacks(Protocol):
    """What a broker calls to get events and to report. No method blocks."""

    def take(self, limit: int) -> list[Entry]:
        """Take at most *limit* events to send, in order; they are then in flight."""

    def settle(self, settlements: Iterable[Settlement]) -> bool:
        """Report outcomes; returns whether more can be taken now."""

    def on_state_change(
        self, state: BrokerState, error: str = "", *, final: bool = False
    ) -> None:
        """Report a new state. At ``DOWN``, everything still in flight is *unknown*.

        *final*: no other state will follow, so callers must not wait for one.
        """


class Broker(Protocol):
    """Takes events, sends them, and settles each one exactly once."""

    #: The broker makes all callbacks through this.
    relay: CallbackRelay

    def start(self, callbacks: BrokerCallbacks) -> None:
        """Start to connect; does not wait. Later calls do nothing.

        :raises RuntimeError: no thread can be started. A later call tries again.
        """

    def wake(self) -> None:
        """There may be events to take. Thread-safe; does not wait."""

    def reconnect_now(self) -> None:
        """Connect now, without waiting for the backoff. Thread-safe; does not wait."""

    def reconnect_soon(self, seconds: float = IN_USE) -> None:
        """There is something to send: try about once a second, for so many *seconds*.

        Thread-safe; does not wait. May be called for each unit of work.
        """

    def close(self, timeout: float) -> bool:
        """Stop within *timeout* seconds; returns whether it stopped cleanly."""


class CallbackRelay:
    """Forwards a broker's callbacks; remembers the last state it reported."""

    def __init__(self) -> None:
        #: Set when the broker is started.
        self.target: BrokerCallbacks | None = None
        #: Called instead of the target, which it may call in turn.
        self.interceptor: BrokerCallbacks | None = None
        self.reported = (BrokerState.IDLE, "")
        #: The latest connection; ``None``: there was none.
        self.connection: Connection | None = None

    def connected(self, node: str) -> None:
        """Record that there is a connection to *node*."""
        number = 1 if self.connection is None else self.connection.number + 1
        self.connection = Connection(number, node)

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
