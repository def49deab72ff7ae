"""Writes retained events into this process's own file."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ...delivery.entries import Entry
from ...delivery.forks import no_fork
from ...delivery.ledger import Ledger
from ...delivery.periodic_worker import TICK, PeriodicWorker, drain
from ...delivery.signal import Signal
from ...delivery.store import StoreProblem
from ...delivery.threads import holds, is_own_thread
from ..circuit_breaker import CircuitBreaker
from .control import LOOK_INTERVAL, Expected, apply, pending_request, withdraw
from .files import close, write_rows
from .folder import Claim, Folder
from .journal import Journal, is_damage
from .quarantine import Quarantine
from .refusals import RefusalsFile

#: The most seconds that a caller waits for the disk.
LONGEST_WAIT = 1.0
#: The most rows written in one transaction, besides those that callers wait for.
_MOST_ROWS = 5_000


class _WriteRequest:
    """A caller that waits until its events are on disk."""

    def __init__(self, entries: Sequence[Entry] | None) -> None:
        #: ``None``: all events that were handed over.
        self.entries = entries
        self.done = Signal()


class Writer:
    """The thread that writes to this process's own file.

    So a disk that hangs does not block its callers, and the requests of several callers
    are written in one transaction. The file is created with the first row.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: Folder,
        quarantine: Quarantine,
        *,
        patience: float,
        full_sync: bool,
        name: str,
    ) -> None:
        self._ledger = ledger
        self._folder = folder
        self._quarantine = quarantine
        #: Seconds after which an event is written even if no caller requests it.
        self._patience = patience
        self._full_sync = full_sync
        self._worker = PeriodicWorker(
            self._run_once, self._on_stop, f"eventcollector-spool-{name}"
        )
        self._wake_broker: Callable[[], object] = lambda: None
        self._requests: deque[_WriteRequest] = deque()
        self._own: tuple[Claim, Journal] | None = None
        self._refusals: RefusalsFile | None = None
        self._breaker = CircuitBreaker("writing")
        self._was_started = self._has_ended = False
        #: When to look for a command-line request.
        self._next_look = float("-inf")
        self._expected = Expected()
        #: Held while the rest is written.
        self._at_last = threading.RLock()

    # Called in any thread.

    def start(self, wake_broker: Callable[[], object]) -> None:
        self._wake_broker = wake_broker
        self._worker.start()
        self._was_started = True

    def write(self, entries: Sequence[Entry] | None) -> None:
        """Write *entries*, or all events; waits at most one second.

        After :meth:`stop`, writes them in this thread, which the disk may block.
        """
        if self._has_ended:
            self._write_rest()
            return
        if self._breaker.is_open or not self._worker.is_running:
            # Callers do not wait for a failing disk again and again. Once it works,
            # missing events are written without a request.
            return
        request = _WriteRequest(entries)
        self._requests.append(request)
        self._worker.wake()
        if is_own_thread():
            # This may be the thread that writes.
            return
        if not request.done.wait(LONGEST_WAIT):
            self._breaker.record_failure(TimeoutError("the disk does not respond"))

    def wake(self) -> None:
        """Check now for rows to write or to erase."""
        self._worker.wake()

    def stop(self, timeout: float) -> None:
        """Write the rest, then stop; waits at most *timeout* seconds."""
        self._has_ended = self._worker.stop(timeout)
        if self._has_ended and not self._was_started:
            # No thread could be started.
            self._write_rest()

    @property
    def problem(self) -> StoreProblem | None:
        """Why events that should be on disk are not."""
        return self._breaker.problem

    # One run. Nothing below is called by other threads.

    @no_fork()
    def _run_once(self) -> float:
        requests = drain(self._requests)
        try:
            wrote_all = self._write(requests)
        finally:
            _let_go(requests)
        self._tell_refusals()
        if self._has_applied() or not wrote_all:
            return 0.0
        patience = self._patience if self._ledger.unstored() else 0.0
        return min(patience or TICK, self._expected.pause)

    def _write(self, requests: Iterable[_WriteRequest]) -> bool:
        """Write and erase rows; returns whether everything is done."""
        if self._breaker.is_open:
            return True
        wanted: list[Entry] = []
        patience = self._patience
        for request in requests:
            if request.entries is None:
                patience = -1.0
            else:
                wanted += request.entries
        wrote_all = True
        try:
            if self._own or wanted or self._ledger.has_overdue(patience):
                wrote_all = self._write_rows(wanted, patience)
            self._breaker.record_success()
        except (OSError, sqlite3.Error) as error:
            self._breaker.record_failure(error)
            if is_damage(error):
                self._give_up_file(error)
        return wrote_all

    def _write_rows(self, wanted: Sequence[Entry], patience: float) -> bool:
        journal = self._journal()
        with self._ledger.writing(
            journal, wanted, overdue_after=patience, limit=_MOST_ROWS
        ) as write:
            write_rows(journal, write)
        return not write.more

    def _has_applied(self) -> bool:
        """Look now and then for a command-line request, and apply it.

        Returns whether rows may have to be updated.
        """
        if (now := time.monotonic()) < self._next_look:
            return False
        self._next_look = now + LOOK_INTERVAL
        return self._apply_request()

    def _apply_request(self) -> bool:
        control = self._own and pending_request(self._own[0].path)
        if not control or not self._own:
            return False
        apply(control, self._ledger)
        self._expected.note()
        self._wake_broker()
        return withdraw(self._own[0].path, control)

    def _tell_refusals(self, *, at_last: bool = False) -> None:
        if self._own and self._refusals:
            self._refusals.write(self._ledger, at_last=at_last)

    def _journal(self) -> Journal:
        if self._own is None:
            self._folder.make()
            claim = self._folder.claim_new()
            try:
                journal = Journal.create(
                    claim.path,
                    str(self._folder.destination),
                    full_sync=self._full_sync,
                )
            except BaseException:
                claim.remove()
                raise
            self._refusals = RefusalsFile(claim.path, journal)
            self._own = (claim, journal)
        return self._own[1]

    def _give_up_file(self, error: Exception) -> None:
        """Quarantine the damaged file; its events are in memory, and get a new file."""
        if self._own is None:
            return
        (claim, journal), self._own = self._own, None
        rescued = self._ledger.stats().spooled
        journal.close()
        self._ledger.lost(journal)
        self._quarantine.add(claim, str(error), rescued)

    def _write_rest(self) -> None:
        """Do what the thread does at its end, in the calling thread."""
        if holds(self._at_last):
            # A destructor has interrupted this: what it asks for is written as well.
            return
        with self._at_last:
            self._on_stop()

    @no_fork()
    def _on_stop(self) -> None:
        self._breaker.reset()
        while not self._write([_WriteRequest(None)]) and not self._breaker.is_open:
            pass
        self._tell_refusals(at_last=True)
        if self._own is not None:
            (claim, journal), self._own = self._own, None
            close(claim, journal)
        _let_go(drain(self._requests))


def _let_go(requests: Iterable[_WriteRequest]) -> None:
    for request in requests:
        request.done.set()
