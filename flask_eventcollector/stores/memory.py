"""The backlog that needs nothing: what waits is in memory, and ends with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..delivery.entries import Entry
from ..delivery.store import QuarantinedFile


class MemoryStore:
    """Leaves all that waits to the ledger, which has it in memory anyway."""

    def start(self, wake: Callable[[], object]) -> None:
        """There is nothing to start."""

    def persist(self, entries: Sequence[Entry]) -> None:
        """The ledger keeps them."""

    def persist_all(self) -> None:
        """The ledger keeps them."""

    def wake(self) -> None:
        """There is nothing to erase."""

    def scan(self, timeout: float) -> None:
        """A dead process leaves nothing."""

    def close(self, timeout: float) -> None:
        """There is nothing to stop."""

    def take_quarantined(self) -> list[QuarantinedFile]:
        return []

    def figures(self) -> Mapping[str, Any]:
        return {}
