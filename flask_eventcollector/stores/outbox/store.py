"""The store in the application's database, beside the one for other events."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Engine, Table
from sqlalchemy.exc import SQLAlchemyError

from ...delivery.entries import Entry, State
from ...delivery.forks import no_fork
from ...delivery.ledger import Ledger
from ...delivery.periodic_worker import TICK, PeriodicWorker, drain
from ...delivery.signal import Signal
from ...delivery.store import QuarantinedFile, Store, StoreProblem
from ...delivery.threads import is_own_thread
from ...errors import ConfigurationError
from ...events import Event
from ..circuit_breaker import CircuitBreaker
from .claims import LOOK_INTERVAL as CLAIM_INTERVAL
from .due_times import DueTimes
from .held_rows import HeldRows
from .incidents import Incidents
from .outbox import LEASE, Outbox, Refused
from .rows import OutboxRow
from .writer import OutboxWriter

#: The most seconds between two looks for rows that no process holds. With a lease that
#: is shorter than thrice that, they are more frequent.
LOOK_INTERVAL = 10.0
#: How many rows to erase justify a run.
_ERASE_AT = 200
_LOST = (
    "rows of the outbox that this process held are not its own any more. Either they"
    " were purged; or their lease has run out, so their events may be sent twice, which"
    " marks the second copies: it was frozen, or the database did not answer. If that"
    " happens often, raise EVENTCOLLECTOR_OUTBOX_LEASE"
)
_UNSEEN = (
    "rows that this process has written can't be seen for a lease. Either an outer"
    " transaction has rolled them back, or is still open; or another process has them;"
    " or they are where nobody reads them, in another database, or in another schema"
    " since the session has a search_path of its own: give make_outbox_table() a schema"
)
#: Without its properties, nobody knows whether the event may be sent, and when.
_UNREADABLE = (
    "row {} of the outbox is dead, since {}: if a newer version of the library has"
    " written it, update this process, then run 'flask events retry'"
)

_FAILURES = (SQLAlchemyError, ConfigurationError, OSError)


class _Written(NamedTuple):
    """A row that a transaction of this process has written."""

    seq: int
    event: Event
    #: When it was written, which was when its lease began. The commit may take long.
    at: float


class OutboxStore(OutboxWriter):
    """Sends the events whose rows this process holds; *base* stores all others.

    A row is written held by the process that commits it. Its thread then reads on its
    own connection which rows are really committed, and only those are adopted. So rows,
    not memory, decide what is sent. The thread also erases what is confirmed, renews
    the lease, and claims rows that nobody holds any more.

    :param page: how many rows that other processes have left, and how many bytes, may
        be in memory.
    """

    sends = True
    #: Rows that are due within so many seconds are held until then.
    _hold_for = LOOK_INTERVAL
    #: Seconds from a commit to its run. The request that has committed goes on first:
    #: they share the interpreter. And ten transactions take as long as one.
    _gather = 0.003

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
        engine: Engine | None = None,
    ) -> None:
        super().__init__(ledger, base, table, app=app, lease=lease, engine=engine)
        self._page, self._page_bytes = page
        self._erase_at = min(_ERASE_AT, max(1, self._page // 2))
        self._worker = PeriodicWorker(
            self._run_once,
            self._on_stop,
            f"eventcollector-outbox-{name}",
            gather=self._gather,
        )
        self._wake_broker: Callable[[], object] = lambda: None
        self._breaker = CircuitBreaker("rows", "outbox")
        self._scans: deque[Signal] = deque()
        self._written: deque[_Written] = deque()
        self._due_times = DueTimes()
        self._incidents = Incidents()
        # What only the thread uses.
        self._held = HeldRows(ledger, self, lease)
        #: Rows whose transaction may be committed later, by an outer one.
        self._unseen: list[_Written] = []
        self._next_look = 0.0
        #: When to see what operators have done to dead rows.
        self._next_follow = 0.0
        #: Whether rows that were given back are to be sent before newer ones.
        self._is_behind = False
        #: Whether it has looked for rows that nobody holds.
        self.has_looked = False
        #: How many rows were lost to other processes.
        self._lost = 0

    @property
    def store(self) -> Store:
        return self

    # In the application's transactions.

    def open(self, engine: Engine) -> Outbox:
        """The rows of the outbox, in the database of *engine*.

        :raises ConfigurationError: the outbox can't be used with *engine*.
        """
        is_new = not self._opened
        outbox = super().open(engine)
        if is_new:
            self._worker.wake()
        return outbox

    def committed(self, entries: Iterable[Entry]) -> None:
        """The rows of *entries* may be committed: no collector holds them any more."""
        now = time.monotonic()
        rows = {e: e.row for e in entries if e.row is not None}
        for entry in self._ledger.leave(rows):
            if entry.event.has_delay:
                # Nobody holds it. A claim may just have looked for rows that are due.
                self._due_times.add(now + entry.event.due_in + CLAIM_INTERVAL)
            else:
                number, at = rows[entry].number, rows[entry].written_at
                self._written.append(_Written(number, entry.event, at))
        self._worker.wake()

    def sending(self, entries: Iterable[Entry]) -> None:
        """Mark what another process may have sent by now: its lease has run out.

        This process may have been frozen, or its database may not answer.
        """
        if not self._is_lapsed():
            return
        for entry in entries:
            if entry.row is not None and entry.row.journal is self:
                entry.possible_duplicate = True

    def look(self) -> None:
        self._next_follow = 0.0
        self._scans.append(Signal())
        self._worker.wake()

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
        if self._is_run_due(self._ledger.unerased):
            self._worker.wake()

    def _is_run_due(self, unerased: int) -> bool:
        """Whether so many rows to erase justify a run; called by any thread."""
        return unerased >= self._erase_at

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
        return all_known and self.has_looked and self._breaker.problem is None

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
        found = [] if problem is None else [problem]
        return [*found, *self._incidents.current(), *self._base.problems()]

    def figures(self) -> Mapping[str, Any]:
        figures = {**self._base.figures(), "lost_leases": self._lost}
        if self._breaker.problem is not None:
            figures["outbox_error"] = self._breaker.problem.text
        return figures

    # One run. Nothing below is called by other threads.

    @no_fork()
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
        return self._pause(found)

    def _pause(self, found: bool) -> float:
        """Seconds until the next run, which may show more if this one *found* some."""
        if found:
            return 0.0
        return max(0.0, self._held.renew_at - time.monotonic()) if self._held else TICK

    def _work(self, outbox: Outbox, *, look: bool) -> bool:
        """Returns whether there are new events to send."""
        # First, since a consumer waits for them.
        if adopted := self._adopt_committed(outbox):
            self._wake_broker()
        self._update_rows(outbox)
        self._renew(outbox)
        return self._claim(outbox, look=look) or adopted

    def _update_rows(self, outbox: Outbox) -> None:
        """Erase the rows of events that have ended, and follow the others."""
        # Now, since what dies later may not be written yet.
        dead = self._held.dead() if self._is_follow_due() else {}
        with self._ledger.writing(self) as write:
            self._note_lost(len(write.erased) - outbox.erase(write.erased))
            died = [(e, seq) for e, seq in write.written if e.state is State.DEAD]
            outbox.die(_refused(entry, seq) for entry, seq in died)
            for mark in False, True:
                freed = [seq for e, seq in write.freed if e.possible_duplicate == mark]
                outbox.revive(freed, maybe_sent=mark)
        self._held.note_dead(seq for _, seq in died)
        self._held.forget([*write.erased, *(seq for _, seq in write.freed)])
        if dead:
            self._follow_dead(outbox, dead)

    def _is_follow_due(self) -> bool:
        is_due = time.monotonic() >= self._next_follow
        if is_due:
            self._next_follow = time.monotonic() + LOOK_INTERVAL
        return is_due or self._ledger.has_too_many_dead()

    def _follow_dead(self, outbox: Outbox, dead: Mapping[int, Entry]) -> None:
        """Leave the *dead* events that an operator has freed or purged.

        Likewise the oldest, if there are too many: their rows keep them.
        """
        still_dead = outbox.still_dead(dead)
        self._held.leave({n: e for n, e in dead.items() if n not in still_dead})
        for seq, entry in dead.items():
            if not self._ledger.has_too_many_dead():
                break
            self._held.leave({seq: entry})

    def _adopt_committed(self, outbox: Outbox) -> bool:
        """Adopt what this process has committed; returns whether there was anything."""
        written = [*self._unseen, *drain(self._written)]
        if not written:
            return False
        # Until they are read, for whoever waits until nothing is left.
        self._unseen = written
        self._ledger.adopt([], {None: len(written)}, self)
        visible = self._committed(outbox, written)
        fitting = self._fitting(visible)
        self._give_back(outbox, visible[fitting:])
        # An outer transaction may commit the others later. If that takes longer than
        # the lease, any process may claim them.
        oldest = time.monotonic() - self._lease
        seen = {row.seq for row in visible}
        unseen = [row for row in written if row.seq not in seen]
        self._unseen = [row for row in unseen if row.at > oldest]
        if len(self._unseen) < len(unseen):
            self._incidents.tell("unseen rows", _UNSEEN)
        entries = [self._held.hold(row.seq, row.event) for row in visible[:fitting]]
        self._ledger.adopt(entries, {}, self)
        return bool(entries)

    def _committed(self, outbox: Outbox, written: Sequence[_Written]) -> list[_Written]:
        """Those of the rows that are committed, each with most of its lease left."""
        now = time.monotonic()
        ids = outbox.read(row.seq for row in written)
        found = [row for row in written if ids.get(row.seq) == row.event.id]
        late = {row.seq for row in found if row.at < now - self._lease / 3}
        if late:
            # None that is not committed: MySQL would wait for its transaction.
            outbox.renew(late)
            lost = late - outbox.read(late).keys()
            found = [row for row in found if row.seq not in lost]
        if found:
            began = min(now if row.seq in late else row.at for row in found)
            self._held.begin_lease(began)
        # It may have claimed one as any other process may.
        return [row for row in found if row.seq not in self._held]

    def _give_back(self, outbox: Outbox, rows: Sequence[_Written]) -> None:
        """Give back what does not fit into memory; claim it once there is room."""
        if rows:
            outbox.give_back(row.seq for row in rows)
            self._next_look, self._is_behind = 0.0, True

    def _fitting(self, rows: Sequence[_Written]) -> int:
        """How many of *rows* may be held; none before what was given back."""
        if self._is_behind:
            return 0
        events, size = self._ledger.free_for_rows()
        for count, row in enumerate(rows):
            size -= row.event.size
            if count >= events or size < 0:
                return count
        return len(rows)

    def _claim(self, outbox: Outbox, *, look: bool) -> bool:
        """Claim rows that nobody holds; returns whether there were any."""
        is_due = look or self._due_times.take_past()
        if not is_due and time.monotonic() < self._next_look:
            return False
        limits = self._claimable()
        if min(limits) <= 0:
            # Whoever asked for a look gets it once there is room.
            self._next_look = 0.0
            return False
        rows = self._claim_rows(outbox, *limits)
        self.has_looked = True
        if not rows:
            pause = min(LOOK_INTERVAL, self._lease / 3)
            self._next_look = time.monotonic() + pause
            self._is_behind = False
        return bool(rows)

    def _claimable(self) -> tuple[int, int]:
        """How many more rows, and bytes, may be held."""
        events, size = self._ledger.free_for_rows()
        page = self._page - self._held.count
        page_bytes = self._page_bytes - self._held.size
        return min(page, events), min(page_bytes, size)

    def _claim_rows(self, outbox: Outbox, limit: int, size: int) -> list[OutboxRow]:
        """Claim at most *limit* rows, and send their events."""
        began = time.monotonic()
        rows = outbox.claim(limit, size)
        if rows:
            self._held.begin_lease(began)
            self._adopt_rows(outbox, self._readable(outbox, rows))
        return rows

    def _readable(self, outbox: Outbox, rows: list[OutboxRow]) -> list[OutboxRow]:
        """Those of *rows* that this version can read; the others are dead."""
        unreadable = [row for row in rows if row.problem]
        if not unreadable:
            return rows
        outbox.die(
            Refused(row.seq, row.problem, row.attempts, maybe_sent=row.maybe_sent)
            for row in unreadable
        )
        text = _UNREADABLE.format(unreadable[0].seq, unreadable[0].problem)
        self._incidents.tell("unreadable rows", text)
        return [row for row in rows if not row.problem]

    def _adopt_rows(self, outbox: Outbox, rows: Iterable[OutboxRow]) -> None:
        new = []
        for row in self._put_off(outbox, rows):
            held = self._held.get(row.seq)
            if held is not None and held.state is State.DEAD:
                # An operator has freed the row, perhaps for another queue.
                self._held.leave({row.seq: held})
            if row.seq not in self._held:
                maybe_sent = row.maybe_sent
                new.append(self._held.hold(row.seq, row.event, maybe_sent=maybe_sent))
        self._ledger.adopt(new, {}, self)

    def _put_off(self, outbox: Outbox, rows: Iterable[OutboxRow]) -> list[OutboxRow]:
        """Let delayed rows wait that were freed early; returns the others.

        A new leader frees them all, an operator some. They would fill the memory.
        """
        soon, later = list[OutboxRow](), defaultdict[int, list[int]](list)
        for row in rows:
            seconds = int(row.event.due_in - self._hold_for)
            if seconds > 0:
                later[seconds].append(row.seq)
            else:
                soon.append(row)
        for seconds, seqs in later.items():
            outbox.postpone(seqs, seconds)
        return soon

    # The lease.

    def _renew(self, outbox: Outbox) -> None:
        now = time.monotonic()
        if not self._held or now < self._held.renew_at:
            return
        held = self._held.sendable()
        renewed = outbox.renew(held)
        self._held.renewed(now)
        if renewed < len(held):
            ours = outbox.read(held)
            self._lose({n: e for n, e in held.items() if ours.get(n) != e.event.id})

    def _leave_if_lapsed(self) -> None:
        """Send nothing more of what another process may hold by now."""
        if self._held and self._is_lapsed():
            self._lose(self._held.sendable())

    def _is_lapsed(self) -> bool:
        """Whether another process may hold the rows; takes no lock."""
        return self._held.is_lapsed(time.monotonic())

    def _lose(self, rows: Mapping[int, Entry]) -> None:
        """Leave the events to the process that has their rows, unless in flight."""
        for entry in rows.values():
            # If it comes back, it may be sent again before it is left.
            entry.possible_duplicate = True
        self._note_lost(len(self._held.leave(rows)))

    def _note_lost(self, number: int) -> None:
        if number > 0:
            self._lost += number
            self._incidents.tell("lost leases", _LOST)

    # The end.

    @no_fork()
    def _on_stop(self) -> None:
        self._breaker.reset()
        if not self._opened:
            return
        database, outbox = self._opened[None]
        try:
            self._give_all_back(outbox)
        except _FAILURES as error:
            # Their lease runs out.
            self._breaker.record_failure(_brief(error))
        finally:
            database.close()

    def _give_all_back(self, outbox: Outbox) -> None:
        """Let other processes send at once what this one has not sent."""
        held, dead = self._held.sendable(), self._held.dead()
        unread = [row.seq for row in (*self._unseen, *drain(self._written))]
        # First, so that nothing of it is sent any more.
        left = set(self._ledger.leave(held.values()))
        self.left = len(left) + len(unread)
        self._ledger.adopt([], {None: self.left} if self.left else {}, self)
        self._update_rows(outbox)
        self._ledger.leave(dead.values())
        kept = {n: e for n, e in held.items() if n in self._held}
        sent = [n for n, e in kept.items() if e.possible_duplicate or e not in left]
        outbox.give_back(sent, maybe_sent=True)
        outbox.give_back(kept.keys() - sent)
        # The others are not committed. MySQL would wait for their outer transaction.
        self.left -= len(unread) - outbox.give_back(outbox.read(unread))
        self._ledger.adopt([], {None: self.left} if self.left else {}, self)


def _refused(entry: Entry, seq: int) -> Refused:
    maybe_sent = entry.possible_duplicate
    return Refused(seq, entry.reason, entry.attempts, maybe_sent=maybe_sent)


def _brief(error: Exception) -> Exception:
    """What the driver has raised, without the statement that failed."""
    original = getattr(error, "orig", None)
    return original if isinstance(original, Exception) else error
