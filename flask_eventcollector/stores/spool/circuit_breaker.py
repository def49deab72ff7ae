"""What a thread has last heard of the disk."""

from __future__ import annotations

import time

#: Seconds for which a disk that has failed is left alone, and nobody waits for it.
PAUSE = 1.0


class CircuitBreaker:
    """Whether the disk does what one thread asks of it. Nothing here does I/O."""

    def __init__(self) -> None:
        #: What went wrong; ``""``: nothing.
        self.error = ""
        self._closes_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it is to be left alone."""
        return time.monotonic() < self._closes_at

    def record_failure(self, error: Exception) -> None:
        """It did not do what it was asked."""
        self.error = str(error)
        self._closes_at = time.monotonic() + PAUSE

    def record_success(self) -> None:
        """It did."""
        self.error = ""

    def reset(self) -> None:
        """Let it be asked at once."""
        self._closes_at = 0.0
