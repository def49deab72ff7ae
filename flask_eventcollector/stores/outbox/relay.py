"""The store of a relay, which sends what other processes have committed."""

from __future__ import annotations

import time

from sqlalchemy import Engine, Table

from ...delivery.ledger import Ledger
from ...delivery.store import Store
from .leader import Leadership
from .outbox import LEASE, Outbox
from .store import OutboxStore

#: Seconds between two looks of the active relay at a table without free rows.
POLL = 0.05
#: Seconds between two attempts of the others to become active.
STANDBY = 0.25
#: How many rows, and how many bytes, the active relay holds.
PAGE, PAGE_BYTES = 5_000, 32 * 1024 * 1024
#: How many rows to erase justify a run; a statement for a few takes as long.
_ERASE_AT = 500


class RelayStore(OutboxStore):
    """Claims rows as long as this process leads, and stands by otherwise.

    :param takes_over: whether what others hold when this process becomes the leader is
        freed: they have led before. Otherwise their leases must run out.
    :param leader: who this is, for people.
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
        leader: str,
        takes_over: bool,
        lease: float = LEASE,
    ) -> None:
        super().__init__(
            ledger, base, table, app=app, page=page, name=name, lease=lease
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
        """Claim no more rows; what is held is still sent. Does not wait."""
        self._is_ending = True

    # One run. Nothing below is called by other threads.

    def _work(self, outbox: Outbox, *, look: bool) -> bool:
        self._update_rows(outbox)
        leads = self._lead(outbox)
        self._renew(outbox)
        found = leads and not self._is_ending and self._fill(outbox)
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
        if not was_active and self._takes_over:
            outbox.take_over()
        self._leads_until = began + self._lease
        self._next_try = began + self._lease / 3
        return True

    def _stand_by(self, outbox: Outbox) -> None:
        """Another process leads: leave it all rows but those in flight."""
        self._leads_until = float("-inf")
        self._next_try = time.monotonic() + STANDBY
        rows = self._sendable()
        left = self._leave(rows)
        sent = [seq for seq in left if rows[seq].possible_duplicate]
        outbox.give_back(sent, maybe_sent=True)
        outbox.give_back(set(left).difference(sent))

    def _fill(self, outbox: Outbox) -> bool:
        """Claim rows until there are none, or no more may be held."""
        found, self._has_more = False, True
        # The lead may end while the database is slow.
        while self._has_more and self.is_active:
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
        # If it holds all that it may, confirms wake it.
        return until_try if self._has_more else min(POLL, until_try)

    # The end.

    def _give_all_back(self, outbox: Outbox) -> None:
        super()._give_all_back(outbox)
        if self.is_active:
            self._leads_until = float("-inf")
            self._leadership[None].resign()
