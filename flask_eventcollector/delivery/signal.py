"""A wait that can be ended from anywhere, even from a destructor."""

from __future__ import annotations

import threading


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
