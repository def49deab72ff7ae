"""The store of a relay, which sends what other processes have committed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import Engine, Table

from ...delivery.entries import Entry
from ...delivery.ledger import Ledger
from ...delivery.store import Store
from ...events import Target
from .claims import LOOK_INTERVAL as CLAIM_INTERVAL
from .leader import Leadership
from .outbox import LEASE, Outbox
from .rows import OutboxRow
from .store import OutboxStore

#: Seconds between two looks of the active relay at a table without free rows.
POLL = 0.05
#: Seconds between two attempts of the others to become active.
STANDBY = 0.25
#: How many rows, and how many bytes, the active relay holds.
PAGE, PAGE_BYTES = 5_000, 32 * 1024 * 1024
#: Seconds for which rows of a target that confirms nothing wait, unless it recovers.
POSTPONED_FOR = 300.0
#: Seconds for which rows are claimed without a break.
_LONGEST_FILL = 0.5
#: How many rows to erase justify a run; a statement for a few takes as long.
_ERASE_AT = 500


class _Postponed(NamedTuple):
    """What is known of a target whose rows wait, since it confirms nothing."""

    #: When to go on at the earliest.
    until: float
    #: The number up to which its rows are free again.
    released: int = 0


class RelayStore(OutboxStore):
    """Claims rows as long as this process leads, and stands by otherwise.

    :param takes_over: whether what others hold when this process becomes the leader is
        freed: they have led before. Otherwise their leases must run out.
    :param leader: who this is, for people.
    """

    _hold_for = CLAIM_INTERVAL
    _gather = 0.0

    def __init__(
        self,
        ledger: Ledger,
        base: Store,
        table: Table,
        *,
        app: str,
        page: tuple[int, int],
        name: str,
        leader: str,
        takes_over: bool,
        lease: float = LEASE,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(
            ledger,
            base,
            table,
            app=app,
            page=page,
            name=name,
            lease=lease,
            engine=engine,
        )
        self._leader = leader
        self._takes_over = takes_over
        #: One at most, once the engine is known.
        self._leadership: dict[None, Leadership] = {}
        self._is_ending = False
        #: When the database has answered last.
        self.answered_at = time.monotonic()
        # What only the thread changes.
        self._leads_until = float("-inf")
        self._next_try = 0.0
        self._has_more = False
        #: Whether rows of the last leader may have to be freed.
        self._is_new = False
        #: The targets with rows that were postponed.
        self._postponed: dict[Target, _Postponed] = {}

    @property
    def is_active(self) -> bool:
        """Whether this process leads; takes no lock."""
        return time.monotonic() < self._leads_until

    def open(self, engine: Engine) -> Outbox:
        outbox = super().open(engine)
        leadership = Leadership(
            self._opened[None][0],
            self._app,
            outbox.token,
            self._leader,
            lease=self._lease,
        )
        self._leadership.setdefault(None, leadership)
        return outbox

    def end(self) -> None:
        """Claim no more rows, and give back those not in flight; does not wait."""
        self._is_ending = True
        self._worker.wake()

    # One run. Nothing below is called by other threads.

    def _work(self, outbox: Outbox, *, look: bool) -> bool:
        self._update_rows(outbox)
        leads = self._lead(outbox)
        self._renew(outbox)
        if self._is_ending:
            # What is sent now might not be confirmed before the end.
            self._give_rows_back(outbox, self._held.sendable())
        found = leads and not self._is_ending and self._send_more(outbox)
        self.has_looked = True
        self.answered_at = time.monotonic()
        return found

    def _lead(self, outbox: Outbox) -> bool:
        """Be the leader if nobody else is; returns whether this process is it."""
        began = time.monotonic()
        if began < self._next_try:
            return self.is_active
        was_active = self.is_active
        if not self._leadership[None].lead():
            self._stand_by(outbox)
            return False
        if not was_active:
            self._is_new = self._takes_over
        self._leads_until = began + self._lease
        self._next_try = began + self._lease / 3
        return True

    def _stand_by(self, outbox: Outbox) -> None:
        """Another process leads: leave it all rows but those in flight."""
        self._leads_until = float("-inf")
        self._next_try = time.monotonic() + STANDBY
        self._postponed.clear()
        self._give_rows_back(outbox, self._held.sendable())

    def _send_more(self, outbox: Outbox) -> bool:
        """Claim what may be sent; returns whether there was anything."""
        if self._is_new:
            # One step at a time: the lead must be renewed.
            self._is_new = not outbox.take_over()
        if self._is_new:
            return False
        self._leave_what_is_held_up(outbox)
        return self._fill(outbox)

    def _fill(self, outbox: Outbox) -> bool:
        """Claim rows until there are none, or no more may be held."""
        found, self._has_more = False, True
        # Then other work is due. The lead may end while the database is slow.
        until = min(time.monotonic() + _LONGEST_FILL, self._leads_until)
        while self._has_more and time.monotonic() < until:
            limit, size = self._claimable()
            if limit <= 0 or size <= 0:
                break
            rows = self._claim_rows(outbox, limit, size)
            # One that returns fewer has seen all.
            self._has_more = len(rows) >= min(limit, self._opened[None][0].chunk)
            if rows:
                found = True
                self._wake_broker()
        return found

    # Targets that confirm nothing.

    def _leave_what_is_held_up(self, outbox: Outbox) -> None:
        """Have targets that confirm nothing hold no more than half of all rows."""
        held_up, now = self._ledger.held_up(), time.monotonic()
        for target, postponed in [*self._postponed.items()]:
            if target not in held_up and now >= postponed.until:
                self._resume(outbox, target)
        if held_up and min(self._claimable()) <= 0:
            for place, target in enumerate(held_up):
                is_tried = 2 * place < self._page
                self._postpone(outbox, target, 2 * len(held_up) if is_tried else 0)

    def _postpone(self, outbox: Outbox, target: Target, share: int) -> None:
        """Have *target* hold its first events only, so that others can be held.

        :param share: these are its part of all, one at least; 0: none.
        """
        rows, kept = self._waiting_for(target), 0
        if share:
            kept = _kept(rows, self._page // share, self._page_bytes // share)
        seqs = self._held.leave(dict([*rows.items()][kept:]))
        if not seqs:
            return
        # Without an event to try, only the time tells when to go on.
        until = 0.0 if kept else time.monotonic() + POSTPONED_FOR / 10
        self._postponed[target] = _Postponed(until)
        for mark in False, True:
            marked = [seq for seq in seqs if rows[seq].possible_duplicate == mark]
            outbox.postpone(marked, POSTPONED_FOR, maybe_sent=mark)

    def _waiting_for(self, target: Target) -> dict[int, Entry]:
        """The held rows for *target* that are not in flight, in their order."""
        held = self._held.sendable().items()
        rows = [(n, e) for n, e in held if e.target == target and e.is_retained]
        return dict(sorted(rows))

    def _adopt_rows(self, outbox: Outbox, rows: Iterable[OutboxRow]) -> None:
        ready, later = list[OutboxRow](), list[int]()
        for row in rows:
            postponed = self._postponed.get(row.event.target)
            if postponed is None or row.seq <= postponed.released:
                ready.append(row)
            else:
                later.append(row.seq)
        # They stay behind those that were postponed before.
        outbox.postpone(later, POSTPONED_FOR)
        super()._adopt_rows(outbox, ready)

    def _resume(self, outbox: Outbox, target: Target) -> None:
        """*target* confirms again: free its rows, step by step in their order."""
        released = outbox.release(target)
        if released is None:
            del self._postponed[target]
        else:
            self._postponed[target] = _Postponed(0.0, released)

    def _give_rows_back(self, outbox: Outbox, rows: Mapping[int, Entry]) -> None:
        """Let *rows* be free again, unless their events are in flight."""
        left = self._held.leave(rows)
        for mark in False, True:
            marked = [seq for seq in left if rows[seq].possible_duplicate == mark]
            outbox.give_back(marked, maybe_sent=mark)

    def _is_lapsed(self) -> bool:
        return not self.is_active or super()._is_lapsed()

    def _is_run_due(self, unerased: int) -> bool:
        if unerased >= _ERASE_AT:
            return True
        # Large events, or small limits: it may hold no more than a few.
        return self._has_more and 4 * unerased >= len(self._held)

    def _pause(self, found: bool) -> float:
        until_try = max(0.0, self._next_try - time.monotonic())
        if not self.is_active or self._is_ending:
            return until_try
        if self._is_new or (self._has_more and min(self._claimable()) > 0):
            return 0.0
        if self._postponed:
            return min(POLL, until_try)
        # If it holds all that it may, confirms wake it.
        return until_try if self._has_more else min(POLL, until_try)

    # The end.

    def _give_all_back(self, outbox: Outbox) -> None:
        super()._give_all_back(outbox)
        if self.is_active:
            self._leads_until = float("-inf")
            self._leadership[None].resign()


def _kept(rows: Mapping[int, Entry], most: int, size: int) -> int:
    """How many of the first *rows* are at most so many, and so large; 1 at least."""
    count = 0
    for entry in rows.values():
        size -= entry.event.size
        if count and (count >= most or size < 0):
            break
        count += 1
    return count
