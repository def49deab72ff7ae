"""Starts the threads of a process, once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .log import ThrottledLog
from .threads import call_holding, holds

#: The most seconds to wait for a start in another thread, which takes milliseconds. But
#: it may wait in turn: before a new thread counts as started, it may run a destructor,
#: and that may come here.
_PATIENCE = 0.5


class Startup:
    """Carries out the start, until it has succeeded or is forbidden."""

    def __init__(self, log: ThrottledLog) -> None:
        self._log = log
        self._lock = threading.RLock()
        self.is_done = False
        #: Whether a shutdown has begun, so that nothing may be started any more.
        self.is_forbidden = False
        #: Why no thread could be started; ``""``: it could.
        self.problem = ""

    def run(self, start: Callable[[], object], *, is_all: bool = True) -> None:
        """Call *start*, unless all is started.

        If no thread can be started, this is logged, and the next call tries again. The
        same if another thread has not yet started them after half a second.

        :param start: each of its calls is idempotent, since an earlier start may have
            been interrupted.
        :param is_all: whether nothing is left to be started then.
        """
        if self.is_done or holds(self._lock):
            # The latter: called by a destructor that interrupted the start.
            return

        def start_if_needed() -> None:
            if not (self.is_done or self.is_forbidden):
                start()
                self.is_done = is_all
            self.problem = ""

        try:
            call_holding(self._lock, _PATIENCE, start_if_needed)
        except RuntimeError as error:
            # The machine has no more threads, or the interpreter is shutting down.
            self.problem = f"no thread could be started: {error}"
            self._log.no_threads(error)

    def forbid(self) -> None:
        """Start nothing any more; waits a moment for a start that is under way."""
        self.is_forbidden = True
        call_holding(self._lock, _PATIENCE, lambda: None)
