"""The store on disk, which the process's end does not affect."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...delivery.entries import Entry
from ...delivery.ledger import Ledger
from ...delivery.store import QuarantinedFile, StoreProblem
from .adopter import Adopter
from .folder import Folder
from .quarantine import Quarantine
from .siblings import Siblings
from .writer import Writer


class Spool:
    """Stores events in this process's file; adopts the files of dead processes.

    A row is only a copy. The ledger holds the event itself, and decides its state.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: Folder,
        *,
        patience: float,
        page: tuple[int, int],
        full_sync: bool = False,
        name: str,
    ) -> None:
        self._ledger = ledger
        self._quarantine = Quarantine()
        self._siblings = Siblings(folder)
        self._writer = Writer(
            ledger,
            folder,
            self._quarantine,
            patience=patience,
            full_sync=full_sync,
            name=name,
        )
        self._adopter = Adopter(
            ledger,
            folder,
            self._quarantine,
            self._siblings,
            page=page,
            full_sync=full_sync,
            name=name,
        )

    def start(
        self, wake: Callable[[], object], reconnect: Callable[[], object]
    ) -> None:
        def wake_all() -> None:
            wake()
            self._writer.wake()

        self._siblings.on_connected = reconnect
        self._writer.start(wake)
        self._adopter.start(wake_all)

    def persist(self, entries: Sequence[Entry]) -> None:
        unstored = [e for e in entries if e.state.alive and not e.is_stored]
        if unstored:
            self._writer.write(unstored)

    def persist_all(self) -> None:
        self._writer.write(None)

    def wake(self) -> None:
        if self._ledger.unerased >= self._adopter.erase_at:
            self._writer.wake()
            self._adopter.wake()

    def connected(self) -> None:
        self._siblings.tell()
        self._adopter.wake()

    def scan(self, timeout: float) -> bool:
        return self._adopter.scan(timeout)

    def wait_for_first_scan(self) -> None:
        self._adopter.wait_for_first_scan()

    def close(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._adopter.request_stop()
        self._writer.stop(timeout)
        self._adopter.stop(max(0.0, deadline - time.monotonic()))

    def take_quarantined(self) -> list[QuarantinedFile]:
        return self._quarantine.drain()

    def problems(self) -> list[StoreProblem]:
        problem = self._writer.problem
        writing = [] if problem is None else [problem]
        return [*writing, *self._adopter.problems, *self._quarantine.problems]

    def figures(self) -> Mapping[str, Any]:
        fails = self._writer.problem is not None
        strays, stray_events = self._adopter.strays
        return {
            "spool_error": next((problem.text for problem in self.problems()), ""),
            "unspooled": self._ledger.unstored() if fails else 0,
            "quarantined": self._quarantine.count,
            "strays": strays,
            "stray_events": stray_events,
        }
