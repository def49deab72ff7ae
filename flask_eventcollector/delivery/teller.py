"""Tells what has happened to events, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .entries import Notice
from .ledger import Ledger
from .notifier import Notifier
from .store import Store
from .threads import call_holding


class Teller:
    """Has notices dispatched: a caller's own, and those that no caller waits for."""

    def __init__(self, ledger: Ledger, notifier: Notifier, store: Store) -> None:
        self._ledger = ledger
        self._notifier = notifier
        self._store = store
        #: Held while the latter are dispatched, so that they stay in order.
        self._telling = threading.RLock()
        self._told = 0

    @contextmanager
    def telling(
        self, tell: Callable[[list[Notice]], object] | None = None
    ) -> Iterator[list[Notice]]:
        """Dispatch what the block puts into the list, or *tell* it.

        What is left of it when a signal handler raises, the flusher dispatches.
        """
        notices: list[Notice] = []
        try:
            yield notices
            (tell or self._notifier.notify)(notices)
        except BaseException:
            self._ledger.defer(notices)
            raise

    def tell_pending(self, timeout: float = threading.TIMEOUT_MAX) -> int:
        """Dispatch, in this thread, the notices that no caller is waiting for.

        Waits at most *timeout* seconds for another thread that is dispatching. Returns
        how many notices were ever dispatched here: while it grows, more may follow.
        """
        call_holding(self._telling, timeout, self._tell_pending)
        return self._told

    def _tell_pending(self) -> None:
        with self.telling() as notices:
            self._ledger.discard_abandoned(into=notices)
            self._ledger.take_deferred(notices)
            self._told += len(notices)
        while change := self._ledger.take_broker_change():
            self._notifier.broker_changed(change)
        self.tell_quarantined()

    def tell_quarantined(self) -> None:
        """Report the files that the store has quarantined."""
        self._notifier.quarantined(self._store.take_quarantined())
