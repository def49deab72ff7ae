"""When to try to connect again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ...delivery.signal import Signal

#: Seconds between two attempts to connect while there is something to send.
LEAST_PAUSE, LONGEST_PAUSE = 1.0, 1.5


class Pacing:
    """Ends the pause after an attempt: by its backoff, or by what there is to send.

    The pause is random, so that processes that an outage has interrupted together don't
    return together.
    """

    def __init__(
        self,
        delay: Callable[[int], float],
        *,
        signal: Signal | None = None,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        #: Seconds to wait after so many failures, if there is nothing to send.
        self._delay = delay
        self._clock = clock
        self._uniform = uniform
        self._signal = signal or Signal()
        #: Until when the process is in use, and has something to send.
        self._used_until = float("-inf")
        #: Whether the last attempt was long enough ago for that to bring another.
        self._may_retry = False

    # Called in any thread. Nothing below waits.

    def retry_now(self) -> None:
        """End this pause, or the next one."""
        self._signal.set()

    def retry_soon(self, seconds: float) -> None:
        """Keep pauses to LONGEST_PAUSE for so many *seconds*."""
        self._used_until = max(self._used_until, self._clock() + seconds)
        if self._may_retry:
            self._signal.set()

    # Called by the thread that connects.

    def begin(self) -> None:
        """An attempt begins. A call of retry_now() from now on brings another."""
        self._signal.wait(0)

    def pause(self, failures: int) -> None:
        """Wait for the next attempt, after so many consecutive *failures*."""
        delay = self._delay(failures)
        least = LEAST_PAUSE + self._uniform() * (LONGEST_PAUSE - LEAST_PAUSE)
        if self._signal.wait(min(delay, least)):
            return
        # Set before the check: a call of retry_soon() in between is not missed.
        self._may_retry = True
        if self._used_until < self._clock():
            self._signal.wait(delay - least)
        self._may_retry = False
