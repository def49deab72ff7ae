"""The protocol of a store, which keeps unconfirmed events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .entries import Entry


class QuarantinedFile(NamedTuple):
    """A damaged spool file that was renamed."""

    #: Where it is now. The library never reads or deletes it again.
    path: Path
    reason: str
    #: How many of its events were intact, and were copied or delivered.
    rescued: int


class StoreProblem(NamedTuple):
    """A problem that keeps events from being stored or adopted."""

    #: Its kind and place, in a text that is the same at each occurrence.
    kind: str
    #: Details of this occurrence, such as the name of a file.
    text: str
    #: Whether it is logged once only, and not again each minute.
    once: bool = False
    #: Which store has it: ``"spool"`` or ``"outbox"``.
    store: str = "spool"


class TransactionStore(Protocol):
    """Keeps events in the application's own database transactions."""

    #: A table of SQLAlchemy.
    table: Any

    #: Whether this process sends them. Otherwise, another one does.
    sends: bool

    @property
    def left(self) -> int:
        """How many events it has left to other processes, as this one ends."""

    def open(self, engine: Any) -> object:
        """Begin to send what other processes have left in the database of *engine*."""

    def look(self) -> None:
        """There are rows to free or to claim. Does not wait."""

    def write(self, connect: Callable[[Any], Any], entries: Sequence[Entry]) -> None:
        """Write those of *entries* that are still collected into a transaction.

        :param connect: returns the transaction's connection for a table; ``None``: they
            are not written now.
        """

    def committed(self, entries: Iterable[Entry]) -> None:
        """The transaction was committed, so its *entries* are to be sent."""

    def sending(self, entries: Iterable[Entry]) -> None:
        """Mark those of *entries* that another process may have sent.

        They are about to be sent. Does not block.
        """


class Store(Protocol):
    """Keeps handed-over events until they are confirmed.

    No method raises because of a disk error.
    """

    def start(
        self, wake: Callable[[], object], reconnect: Callable[[], object]
    ) -> None:
        """Start to work; calls *wake* when there are new events to send.

        Calls *reconnect* when another process has connected to the broker.
        """

    def persist(self, entries: Sequence[Entry]) -> None:
        """Store the unconfirmed ones among *entries*; waits at most one second."""

    def persist_all(self) -> None:
        """Store everything that was handed over; waits at most one second."""

    def wake(self) -> None:
        """There may be rows to erase or files to adopt. Does not wait."""

    def connected(self) -> None:
        """This process has connected to the broker: tell others. Does not wait."""

    def scan(self, timeout: float) -> bool:
        """Look for events of dead processes; waits at most *timeout* seconds.

        Returns whether all of them are known.
        """

    def wait_for_first_scan(self) -> None:
        """Wait for the first scan, at most until one second after the start."""

    def close(self, timeout: float) -> None:
        """Store the rest, then stop, within *timeout* seconds."""

    def take_quarantined(self) -> list[QuarantinedFile]:
        """The files that were quarantined since the last call."""

    def problems(self) -> Sequence[StoreProblem]:
        """Its current problems; the first one matters most."""

    def figures(self) -> Mapping[str, Any]:
        """The fields of :class:`~flask_eventcollector.Stats` that are known here."""
