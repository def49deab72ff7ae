"""Where retained events wait: one file a kind, all with the face described here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .entries import Entry


class QuarantinedFile(NamedTuple):
    """A file of the spool that could not be read as a whole."""

    #: Where it is now. Nothing of the library reads or deletes it any more.
    path: Path
    reason: str
    #: How many of its events are delivered all the same.
    rescued: int


class Store(Protocol):
    """Keeps what was handed over until it is confirmed.

    Nothing here raises because of a disk.
    """

    def start(self, wake: Callable[[], object]) -> None:
        """Begin to work; calls *wake* when there are new events to send."""

    def persist(self, entries: Sequence[Entry]) -> None:
        """Keep *entries*, as far as they are not confirmed; waits a second at most."""

    def persist_all(self) -> None:
        """Keep whatever was handed over; waits a second at most."""

    def wake(self) -> None:
        """There is much to erase, or something new may be found. Does not wait."""

    def scan(self, timeout: float) -> None:
        """Look for what dead processes have left; waits *timeout* seconds at most."""

    def close(self, timeout: float) -> None:
        """Keep the rest and stop, within *timeout* seconds."""

    def take_quarantined(self) -> list[QuarantinedFile]:
        """The files that were set aside since the last call."""

    def figures(self) -> Mapping[str, Any]:
        """The fields of :class:`~flask_eventcollector.Stats` that are known here."""
