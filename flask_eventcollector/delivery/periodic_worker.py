"""A daemon thread that does, in rounds, what no caller waits for."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from .signal import Signal
from .threads import forget_own_thread, note_own_thread

T = TypeVar("T")

logger = logging.getLogger("flask_eventcollector")

#: Seconds between two rounds at most. Whatever can only set a flag (a destructor, an
#: interrupted caller) is noticed within that.
TICK = 1.0
#: Seconds between two rounds at least, unless it is woken.
_LEAST_PAUSE = 0.02


def drain(waiting: deque[T]) -> list[T]:
    """Take out what is there now; what comes meanwhile is for the next round."""
    return [waiting.popleft() for _ in range(len(waiting))]


class PeriodicWorker:
    """Runs *tend* in rounds: when woken, when due, and once a tick.

    *tend* returns the seconds after which it wants to run again. *leave* runs once, in
    the same thread, after the last round.
    """

    def __init__(
        self, run_once: Callable[[], float], on_stop: Callable[[], None], name: str
    ) -> None:
        self._run_once = run_once
        self._on_stop = on_stop
        self._wake = Signal()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_running(self) -> bool:
        """Whether a next round will come."""
        return self._thread.is_alive() and not self._stopping

    def start(self) -> None:
        """Start the thread, if it has not started yet; never blocks for long."""
        if self._thread.ident is None:
            self._thread.start()

    def wake(self) -> None:
        """Begin the next round now."""
        self._wake.set()

    def request_stop(self) -> None:
        """Stop within a tick. Takes no lock, so a destructor may call it."""
        self._stopping = True

    def stop(self, timeout: float) -> bool:
        """Stop, waiting at most *timeout* seconds; returns whether it has stopped."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        note_own_thread()
        try:
            self._work()
        finally:
            forget_own_thread()

    def _work(self) -> None:
        pause = 0.0
        while not self._stopping:
            # Cleared before the round: what comes during it asks for another one.
            self._wake.wait(pause)
            pause = min(max(self._run_guarded(), _LEAST_PAUSE), TICK)
        self._on_stop()

    def _run_guarded(self) -> float:
        try:
            return self._run_once()
        except Exception:
            with suppress(Exception):  # A logging handler may raise, too.
                logger.exception("The thread %s failed; it goes on", self._thread.name)
            return TICK
