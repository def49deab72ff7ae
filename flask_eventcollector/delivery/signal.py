"""Waits that can be ended from anywhere, even from a destructor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Signal:
    """Lets one thread wait until another calls :meth:`set`.

    It resembles ``threading.Event``, but is safe in destructors. An event sets its flag
    under an internal lock. If the garbage collector ran a destructor at that moment, in
    the same thread, and the destructor set the same event, it would deadlock. This
    class uses a single lock that is never held while Python code runs.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """End the current or the next wait; never blocks."""
        try:
            self._lock.release()
        except RuntimeError:
            # It is set already.
            return

    def is_set(self) -> bool:
        """Whether a wait would end at once."""
        return not self._lock.locked()

    def wait(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds; clears it, and returns whether it was set."""
        return self._lock.acquire(timeout=max(0.0, timeout))


class Broadcast:
    """Lets threads wait, each for a condition of its own.

    It resembles ``threading.Condition``. But that one is not made for an exception of a
    signal handler: its exit is Python code, and such an exception at its first bytecode
    would leave the lock locked.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: set[Signal] = set()

    def wait_for(self, condition: Callable[[], object], deadline: float) -> None:
        """Wait until *condition* holds, at most until *deadline* by the clock."""
        signal = Signal()
        try:
            self._waiting.add(signal)
            while not condition() and signal.wait(deadline - self._clock()):
                pass
            self._waiting.discard(signal)
        except BaseException:
            self._waiting.discard(signal)
            raise

    def wake_all(self) -> None:
        """Let every thread that waits look at its condition; never blocks."""
        for signal in list(self._waiting):
            signal.set()
