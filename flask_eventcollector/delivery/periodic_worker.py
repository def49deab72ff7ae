"""A daemon thread that runs background work periodically."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from .log import INTERVAL
from .records import Kind, log_failure
from .signal import Signal
from .threads import OwnThread

T = TypeVar("T")

#: The longest pause between two runs, in seconds. Callers that can only set a flag (a
#: destructor, an interrupted caller) are noticed within that time.
TICK = 1.0
#: The shortest pause between two runs, in seconds, unless the worker is woken.
_LEAST_PAUSE = 0.02


def drain(waiting: deque[T]) -> list[T]:
    """Take all current items. Items that arrive meanwhile stay for the next run."""
    return [waiting.popleft() for _ in range(len(waiting))]


class PeriodicWorker:
    """Calls *run_once* when woken, when due, and at least once a :data:`TICK`.

    *run_once* returns the seconds after which it wants to run again. *on_stop* is
    called once, in the same thread, after the last run. See :class:`.OwnThread` for
    *calls_user_code*.

    :param gather: the seconds from a wake to its run, so that what arrives in them is
        done together.
    """

    def __init__(
        self,
        run_once: Callable[[], float],
        on_stop: Callable[[], None],
        name: str,
        *,
        gather: float = 0.0,
        calls_user_code: bool = False,
    ) -> None:
        self._gather = gather
        self._run_once = run_once
        self._on_stop = on_stop
        self._wake = Signal()
        self._stopping = False
        #: When the next failure may be logged.
        self._next_line = float("-inf")
        self._thread = OwnThread(self._run, name, calls_user_code=calls_user_code)

    @property
    def is_running(self) -> bool:
        """Whether another run will follow."""
        return self._thread.is_alive and not self._stopping

    def start(self) -> None:
        """Start the thread unless it was started already; does not wait for a run.

        :raises RuntimeError: no thread can be started; a later call tries again.
        """
        self._thread.start()

    def wake(self) -> None:
        """Start the next run now, or once others have been gathered."""
        self._wake.set()

    def request_stop(self) -> None:
        """Stop within a tick. Takes no lock, so a destructor may call it."""
        self._stopping = True

    def stop(self, timeout: float) -> bool:
        """Stop, waiting at most *timeout* seconds; returns whether it has stopped."""
        self._stopping = True
        self._wake.set()
        return self._thread.join(timeout)

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping:
            # Cleared before the round: what comes during it asks for another one.
            if self._wake.wait(pause) and self._gather:
                time.sleep(self._gather)
                self._wake.wait(0)
            pause = min(max(self._run_guarded(), _LEAST_PAUSE), TICK)
        self._on_stop()

    def _run_guarded(self) -> float:
        try:
            return self._run_once()
        except Exception as error:
            self._report_failure(error)
            return TICK

    def _report_failure(self, error: Exception) -> None:
        now = time.monotonic()
        if now < self._next_line:
            return
        self._next_line = now + INTERVAL
        log_failure(Kind.THREAD_FAILED, error, thread=self._thread.name)
