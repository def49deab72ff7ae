"""Stops using a failing disk for a while."""

from __future__ import annotations

import time

#: Seconds for which a failed disk is not used, so that no caller waits for it.
PAUSE = 1.0


class CircuitBreaker:
    """Tracks whether one thread's disk operations succeed. It does no I/O itself."""

    def __init__(self) -> None:
        #: The last error; ``""``: none.
        self.error = ""
        self._closes_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the disk must not be used now."""
        return time.monotonic() < self._closes_at

    def record_failure(self, error: Exception) -> None:
        """Open the breaker for a while."""
        self.error = str(error)
        self._closes_at = time.monotonic() + PAUSE

    def record_success(self) -> None:
        """Clear the error."""
        self.error = ""

    def reset(self) -> None:
        """Allow the disk to be used at once."""
        self._closes_at = 0.0
