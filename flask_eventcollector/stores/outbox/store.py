"""The store in the application's database, beside the one for other events."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.exc import SQLAlchemyError

from ...delivery.entries import Entry, Row, State
from ...delivery.ledger import Ledger
from ...delivery.periodic_worker import TICK, PeriodicWorker, drain
from ...delivery.signal import Signal
from ...delivery.store import QuarantinedFile, Store, StoreProblem
from ...delivery.threads import is_own_thread
from ...errors import ConfigurationError
from ...events import Event
from ..circuit_breaker import CircuitBreaker
from .database import Database
from .outbox import LEASE, Outbox, Refused
from .rows import OutboxRow

#: Seconds between two looks for rows that no process holds.
LOOK_INTERVAL = 10.0
#: How many rows to erase justify a run.
_ERASE_AT = 200

_FAILURES = (SQLAlchemyError, ConfigurationError, OSError)


class _Written(NamedTuple):
    """A row that a transaction of this process has written."""

    seq: int
    event: Event
    #: When it was committed.
    at: float


class OutboxStore:
    """Sends the events whose rows this process holds; *base* stores all others.

    A row is written held by the process that commits it. Its thread then reads on its
    own connection which rows are really committed, and only those are adopted. So rows,
    not memory, decide what is sent. The thread also erases what is confirmed, renews
    the lease, and claims rows that nobody holds any more.

    :param page: how many rows that other processes have left, and how many bytes, may
        be in memory.
    """

    def __init__(
        self,
        ledger: Ledger,
        base: Store,
        table: Table,
        *,
        app: str,
        page: tuple[int, int],
        name: str,
        lease: float = LEASE,
    ) -> None:
        self._ledger = ledger
        self._base = base
        self._table = table
        self._app = app
        self._page, self._page_bytes = page
        self._lease = lease
        self._worker = PeriodicWorker(
            self._run_once, self._on_stop, f"eventcollector-outbox-{name}"
        )
        self._wake_broker: Callable[[], object] = lambda: None
        #: One pair at most, once the engine is known.
        self._opened: dict[None, tuple[Database, Outbox]] = {}
        self._breaker = CircuitBreaker("the outbox")
        self._scans: deque[Signal] = deque()
        self._written: deque[_Written] = deque()
        # What only the thread uses.
        #: The entries of the rows that this process holds, by the rows' numbers.
        self._held: dict[int, Entry] = {}
        #: Rows whose transaction may be committed later, by an outer one.
        self._unseen: list[_Written] = []
        self._next_look = 0.0
        self._renew_at = float("inf")
        #: When the first lease of a held row ends. Read by the broker's thread, too.
        self._held_until = float("inf")
        self._has_looked = False

    # In the application's transactions.

    def open(self, engine: Engine) -> Outbox:
        """The rows of the outbox, in the database of *engine*.

        :raises ConfigurationError: the outbox can't be used with *engine*.
        """
        if not self._opened:
            database = Database(engine, self._table)
            outbox = Outbox(database, self._app, lease=self._lease)
            # Several threads may be here at once.
            self._opened.setdefault(None, (database, outbox))
            self._worker.wake()
        return self._opened[None][1]

    def write(
        self, connect: Callable[[Table], Connection], entries: Iterable[Entry]
    ) -> None:
        """Write rows for those of *entries* that have none yet.

        :param connect: returns the connection of the transaction.
        """
        collected = self._ledger.still_collected(entries)
        new = [entry for entry in collected if entry.row is None]
        if not new:
            return
        connection = connect(self._table)
        outbox = self.open(connection.engine)
        seqs = outbox.write(connection, [entry.event for entry in new], held=True)
        for entry, seq in zip(new, seqs, strict=True):
            entry.row = Row(self, seq)

    def committed(self, entries: Iterable[Entry]) -> None:
        """The rows of *entries* may be committed: no collector holds them any more."""
        now = time.monotonic()
        seqs = {e: e.row.number for e in entries if e.row is not None}
        for entry in self._ledger.leave(seqs):
            self._written.append(_Written(seqs[entry], entry.event, now))
        self._worker.wake()

    def sending(self, entries: Iterable[Entry]) -> None:
        """Mark what another process may have sent by now: its lease has run out.

        This process may have been frozen, or its database may not answer.
        """
        if time.monotonic() < self._held_until:
            return
        for entry in entries:
            if entry.row is not None and entry.row.journal is self:
                entry.possible_duplicate = True

    # The store.

    def start(
        self, wake: Callable[[], object], reconnect: Callable[[], object]
    ) -> None:
        self._base.start(wake, reconnect)
        self._wake_broker = wake
        self._worker.start()

    def persist(self, entries: Sequence[Entry]) -> None:
        self._base.persist(entries)

    def persist_all(self) -> None:
        self._base.persist_all()

    def wake(self) -> None:
        self._base.wake()
        if self._ledger.unerased >= _ERASE_AT:
            self._worker.wake()

    def connected(self) -> None:
        self._base.connected()

    def scan(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        all_known = self._base.scan(timeout)
        if not (self._opened and self._worker.is_running):
            return all_known
        done = Signal()
        self._scans.append(done)
        self._worker.wake()
        if not is_own_thread():
            done.wait(deadline - time.monotonic())
        return all_known and self._has_looked and self._breaker.problem is None

    def wait_for_first_scan(self) -> None:
        self._base.wait_for_first_scan()

    def close(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._worker.stop(timeout)
        self._base.close(max(0.0, deadline - time.monotonic()))

    def take_quarantined(self) -> list[QuarantinedFile]:
        return self._base.take_quarantined()

    def problems(self) -> list[StoreProblem]:
        problem = self._breaker.problem
        return [*([] if problem is None else [problem]), *self._base.problems()]

    def figures(self) -> Mapping[str, Any]:
        figures = dict(self._base.figures())
        if self._breaker.problem is not None:
            figures["spool_error"] = self._breaker.problem.text
        return figures

    # One run. Nothing below is called by other threads.

    def _run_once(self) -> float:
        scans = drain(self._scans)
        try:
            if not self._opened or self._breaker.is_open:
                return TICK
            found = self._work(self._opened[None][1], look=bool(scans))
            self._breaker.record_success()
        except _FAILURES as error:
            self._breaker.record_failure(_brief(error))
            return TICK
        finally:
            self._leave_if_lapsed()
            for scan in scans:
                scan.set()
        if found:
            self._wake_broker()
            return 0.0
        return max(0.0, self._renew_at - time.monotonic()) if self._held else TICK

    def _work(self, outbox: Outbox, *, look: bool) -> bool:
        """Returns whether there are new events to send."""
        self._update_rows(outbox)
        self._renew(outbox)
        adopted = self._adopt_committed(outbox)
        return self._claim(outbox, look=look) or adopted

    def _update_rows(self, outbox: Outbox) -> None:
        """Erase the rows of events that have ended, and follow the others."""
        with self._ledger.writing(self) as write:
            outbox.erase(write.erased)
            dead = [(e, seq) for e, seq in write.written if e.state is State.DEAD]
            outbox.die(Refused(seq, e.reason, e.attempts) for e, seq in dead)
            outbox.revive(seq for e, seq in write.written if e.state is not State.DEAD)
        for seq in write.erased:
            self._held.pop(seq, None)

    def _adopt_committed(self, outbox: Outbox) -> bool:
        """Adopt what this process has committed; returns whether there was anything."""
        written = [*self._unseen, *drain(self._written)]
        if not written:
            return False
        # Until they are read, for whoever waits until nothing is left.
        self._unseen = written
        self._ledger.adopt([], {None: len(written)}, self)
        visible = self._committed(outbox, written)
        room = self._room()
        self._give_back(outbox, visible[room:])
        # An outer transaction may commit the others later. If that takes longer than
        # the lease, any process may claim them.
        oldest = time.monotonic() - self._lease
        unseen = [row for row in written if row.at > oldest]
        self._unseen = [row for row in unseen if row not in visible]
        entries = [self._hold(row.seq, row.event) for row in visible[:room]]
        self._ledger.adopt(entries, {}, self)
        return bool(entries)

    def _committed(self, outbox: Outbox, written: Sequence[_Written]) -> list[_Written]:
        """Those of the rows that are committed, each with most of its lease left."""
        now = time.monotonic()
        late = [row.seq for row in written if row.at < now - self._lease / 3]
        if late:
            outbox.renew(late)
        ids = outbox.read(row.seq for row in written)
        found = [row for row in written if ids.get(row.seq) == row.event.id]
        if found:
            self._note_lease(min(now if row.seq in late else row.at for row in found))
        # It may have claimed one as any other process may.
        return [row for row in found if row.seq not in self._held]

    def _give_back(self, outbox: Outbox, rows: Sequence[_Written]) -> None:
        """Give back what does not fit into memory; claim it once there is room."""
        if rows:
            outbox.give_back(row.seq for row in rows)
            self._next_look = 0.0

    def _room(self) -> int:
        events, _ = self._ledger.free()
        return max(0, events)

    def _claim(self, outbox: Outbox, *, look: bool) -> bool:
        """Claim rows that nobody holds; returns whether there were any."""
        if not look and time.monotonic() < self._next_look:
            return False
        limit = min(self._page - len(self._sendable()), self._room())
        if limit <= 0:
            return False
        began = time.monotonic()
        rows = outbox.claim(limit, self._page_bytes)
        self._has_looked = True
        if rows:
            self._note_lease(began)
        else:
            self._next_look = time.monotonic() + LOOK_INTERVAL
        new = [self._adopted(row) for row in rows if row.seq not in self._held]
        self._ledger.adopt(new, {}, self)
        return bool(new)

    def _adopted(self, row: OutboxRow) -> Entry:
        entry = self._hold(row.seq, row.event)
        entry.possible_duplicate = row.maybe_sent
        entry.attempts = row.attempts
        return entry

    def _hold(self, seq: int, event: Event) -> Entry:
        entry = self._held[seq] = Entry(event)
        entry.row = Row(self, seq, is_committed=True)
        entry.is_stored, entry.state = True, State.RETAINED
        return entry

    # The lease.

    def _note_lease(self, began: float) -> None:
        """Note when the lease of new rows has begun. The first to end counts."""
        if not self._held:
            self._held_until = self._renew_at = float("inf")
        self._held_until = min(self._held_until, began + self._lease)
        self._renew_at = min(self._renew_at, began + self._lease / 3)

    def _renew(self, outbox: Outbox) -> None:
        now = time.monotonic()
        if not self._held or now < self._renew_at:
            return
        held = self._sendable()
        renewed = outbox.renew(held)
        self._held_until, self._renew_at = now + self._lease, now + self._lease / 3
        if renewed < len(held):
            ours = outbox.read(held)
            self._lose({n: e for n, e in held.items() if ours.get(n) != e.event.id})

    def _leave_if_lapsed(self) -> None:
        """Send nothing more of what another process may hold by now."""
        if self._held and time.monotonic() >= self._held_until:
            self._lose(self._sendable())

    def _sendable(self) -> dict[int, Entry]:
        """The entries of held rows. Nobody holds those that are dead."""
        return {n: e for n, e in self._held.items() if e.state is not State.DEAD}

    def _lose(self, rows: Mapping[int, Entry]) -> None:
        """Leave the events to the process that has their rows, unless in flight."""
        left = set(self._ledger.leave(rows.values()))
        for seq, entry in rows.items():
            if entry in left:
                del self._held[seq]

    # The end.

    def _on_stop(self) -> None:
        self._breaker.reset()
        if not self._opened:
            return
        database, outbox = self._opened[None]
        try:
            self._update_rows(outbox)
            self._give_all_back(outbox)
        except _FAILURES as error:
            # Their lease runs out.
            self._breaker.record_failure(_brief(error))
        finally:
            database.close()

    def _give_all_back(self, outbox: Outbox) -> None:
        """Let other processes send at once what this one has not sent."""
        held = self._sendable()
        sent = [seq for seq, entry in held.items() if entry.possible_duplicate]
        outbox.give_back(sent, maybe_sent=True)
        outbox.give_back(held.keys() - sent)
        unread = [row.seq for row in (*self._unseen, *drain(self._written))]
        outbox.give_back(unread)
        self._ledger.leave(held.values())
        left = len(held) + len(unread)
        self._ledger.adopt([], {None: left} if left else {}, self)


def _brief(error: Exception) -> Exception:
    """What the driver has raised, without the statement that failed."""
    original = getattr(error, "orig", None)
    return original if isinstance(original, Exception) else error
