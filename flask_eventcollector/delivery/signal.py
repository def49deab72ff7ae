"""A wait that can be ended from anywhere, also from a destructor."""

from __future__ import annotations

import threading


class Signal:
    """Lets one thread wait until another says so.

    Like ``threading.Event``, but a single lock that nobody holds while Python code
    runs. An event sets its flag under a lock of its own; a destructor that the garbage
    collector runs just then, in the same thread, and that sets the same event, would
    wait for ever.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """End the wait, or the next one; never blocks."""
        try:
            self._lock.release()
        except RuntimeError:
            # It is set.
            return

    def is_set(self) -> bool:
        """Whether a wait would end at once."""
        return not self._lock.locked()

    def wait(self, timeout: float) -> bool:
        """Wait for at most *timeout* seconds; whether it was set. Clears it."""
        return self._lock.acquire(timeout=max(0.0, timeout))
