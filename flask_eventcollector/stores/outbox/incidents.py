"""What has happened once, and is a problem for a while."""

from __future__ import annotations

import time

from ...delivery.store import StoreProblem

#: Seconds for which it is one: long enough to be logged.
_TOLD_FOR = 5.0


class Incidents:
    """The last incident of each kind."""

    def __init__(self) -> None:
        #: With the time until which it is told.
        self._told: dict[str, tuple[StoreProblem, float]] = {}

    def tell(self, kind: str, text: str) -> None:
        """Tell of an incident from now on."""
        problem = StoreProblem(kind, text, store="outbox")
        self._told[kind] = problem, time.monotonic() + _TOLD_FOR

    def current(self) -> list[StoreProblem]:
        """Those that are to be told now; called by any thread."""
        now, told = time.monotonic(), [*self._told.values()]
        return [problem for problem, until in told if now < until]
