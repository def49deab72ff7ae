"""Writes the events of the application's transactions into the outbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import Connection, Engine, Table

from ...delivery.entries import Entry, Row
from ...delivery.ledger import Ledger
from ...delivery.store import Store
from .database import Database
from .outbox import LEASE, Outbox


class OutboxWriter:
    """Leaves the events to whichever process claims their rows, such as a relay.

    Has no thread, and no connection of its own: all it does is done by the
    application's transactions. *base* stores all other events.
    """

    #: Whether this process holds, and so must send, the rows that it writes.
    sends = False

    def __init__(
        self,
        ledger: Ledger,
        base: Store,
        table: Table,
        *,
        app: str,
        lease: float = LEASE,
        engine: Engine | None = None,
    ) -> None:
        self._ledger = ledger
        self._base = base
        self.table = table
        self._app = app
        self._lease = lease
        #: ``None``: that of the transactions.
        self._engine = engine
        #: One pair at most, once the engine is known.
        self._opened: dict[None, tuple[Database, Outbox]] = {}
        self.left = 0

    @property
    def store(self) -> Store:
        """Keeps what this process sends."""
        return self._base

    def open(self, engine: Engine) -> Outbox:
        """The rows of the outbox, in the database of *engine*.

        :raises ConfigurationError: the outbox can't be used with *engine*.
        """
        if not self._opened:
            database = Database(engine, self.table)
            outbox = Outbox(database, self._app, lease=self._lease)
            # Several threads may be here at once.
            self._opened.setdefault(None, (database, outbox))
        return self._opened[None][1]

    def look(self) -> None:
        """Others look for rows."""

    def write(
        self, connect: Callable[[Table], Connection | None], entries: Sequence[Entry]
    ) -> None:
        """Write rows for those of *entries* that have none yet.

        Those that were cleared since they have one lose it.

        :param connect: returns the connection of the transaction; ``None``: they are
            not written now.
        """
        collected = self._ledger.still_collected(entries)
        new = [entry for entry in collected if entry.row is None]
        kept = set(collected)
        cleared = (e for e in entries if e not in kept)
        gone = {e: e.row.number for e in cleared if e.row is not None}
        connection = connect(self.table) if new or gone else None
        if connection is None:
            return
        outbox = self.open(self._engine or connection.engine)
        outbox.take_back(connection, gone.values())
        for entry in gone:
            entry.row = None
        events = [entry.event for entry in new]
        now = time.monotonic()
        seqs = outbox.write(connection, events, held=self.sends)
        for entry, seq in zip(new, seqs, strict=True):
            entry.row = Row(self, seq, written_at=now)

    def committed(self, entries: Iterable[Entry]) -> None:
        """The rows of *entries* may be committed: no collector holds them any more."""
        self._ledger.leave(entry for entry in entries if entry.row is not None)

    def sending(self, entries: Iterable[Entry]) -> None:
        """None of *entries* has a row: this process sends other events only."""
