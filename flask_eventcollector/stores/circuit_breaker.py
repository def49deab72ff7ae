"""Stops using a failing disk or database for a while."""

from __future__ import annotations

import time

from ..delivery.store import StoreProblem

#: Seconds for which what has failed is not used, so that no caller waits for it.
PAUSE = 1.0


class CircuitBreaker:
    """Tracks whether one thread's operations succeed. It does no I/O itself."""

    def __init__(self, place: str, store: str = "spool") -> None:
        self._place = place
        self._store = store
        #: The last failure; ``None``: it works.
        self.problem: StoreProblem | None = None
        self._closes_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it must not be used now."""
        return time.monotonic() < self._closes_at

    def record_failure(self, error: Exception) -> None:
        """Open the breaker for a while."""
        code = getattr(error, "errno", None) or getattr(error, "sqlite_errorcode", "")
        kind = f"{self._place}: {type(error).__name__} {code}"
        # A driver may say it in several lines.
        text = " ".join(str(error).split())
        self.problem = StoreProblem(kind, text, store=self._store)
        self._closes_at = time.monotonic() + PAUSE

    def record_success(self) -> None:
        """Forget the failure."""
        self.problem = None

    def reset(self) -> None:
        """Allow it to be used at once."""
        self._closes_at = 0.0
