"""The store in memory, whose events end with the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..delivery.entries import Entry, State
from ..delivery.store import QuarantinedFile, StoreProblem
from ..delivery.threads import OwnThread
from .spool.event_counts import EventCounts
from .spool.strays import from_before


class PublishedAtCommit:
    """Publishes the events of a transaction at its commit, without the outbox.

    Tests have no other process that could send them, and may have a database that no
    other connection sees.
    """

    sends = True

    def __init__(self, publish: Callable[[list[Entry]], object], table: Any) -> None:
        self._publish = publish
        self.table = table
        self.left = 0

    def open(self, engine: Any) -> None:
        """There is nothing to open."""

    def look(self) -> None:
        """There are no rows."""

    def write(self, connect: Callable[[Any], Any], entries: Sequence[Entry]) -> None:
        """Nothing is written, but a database where that is impossible is an error."""
        if any(entry.state.alive or entry.state is State.NEW for entry in entries):
            connect(self.table)

    def committed(self, entries: Iterable[Entry]) -> None:
        self._publish([*entries])

    def sending(self, entries: Iterable[Entry]) -> None:
        """There is no other process."""


class MemoryStore:
    """Does nothing, since the ledger keeps all waiting events in memory anyway."""

    def __init__(self, left: Sequence[Path] = ()) -> None:
        #: Files on disk, from when the app's backlog was a spool, which nobody reads.
        self._left = left
        self._counts = EventCounts()

    def start(
        self, wake: Callable[[], object], reconnect: Callable[[], object]
    ) -> None:
        """Count the events on disk, in a thread of its own, as the disk may block."""
        if self._left:
            OwnThread(self._count, "eventcollector-look").start()

    def _count(self) -> None:
        self._counts.update(self._left)

    def persist(self, entries: Sequence[Entry]) -> None:
        """The ledger keeps them."""

    def persist_all(self) -> None:
        """The ledger keeps them."""

    def wake(self) -> None:
        """There is nothing to erase."""

    def connected(self) -> None:
        """There is nobody to tell."""

    def scan(self, timeout: float) -> bool:
        """A dead process leaves no events."""
        return True

    def wait_for_first_scan(self) -> None:
        """There is nothing to wait for."""

    def close(self, timeout: float) -> None:
        """There is nothing to stop."""

    def take_quarantined(self) -> list[QuarantinedFile]:
        return []

    def problems(self) -> Sequence[StoreProblem]:
        return [from_before(self._left)] if self._left else []

    def figures(self) -> Mapping[str, Any]:
        error = "".join(problem.text for problem in self.problems())
        return {
            "strays": len(self._left),
            "stray_events": self._counts.known(self._left),
            "spool_error": error,
        }
