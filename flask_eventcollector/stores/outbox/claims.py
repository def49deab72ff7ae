"""Takes free rows, so that one process at a time has each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    Update,
    func,
    or_,
    select,
    tuple_,
    update,
)

from ...events import Target
from .clock import now_ms
from .database import Database
from .rows import OutboxRow, columns_of, is_waiting, row_of
from .table import due_index

#: Seconds between two claims that look at all free rows. Those in between skip what
#: lies before the last one: until a vacuum, claimed rows are still in the index.
LOOK_INTERVAL = 1.0
#: Looks take at most this part of the time. Where a transaction that stays open keeps
#: many erased rows in the index, a look steps over all of them.
_LOOKS_SHARE = 0.03
#: Seconds between two looks at most: a row of a long transaction may wait for one.
_LONGEST_PAUSE = 5.0


class Claims:
    """Claims the rows of *app* for the process with *token*.

    Rows are found by their state alone, since numbers are given before they are
    committed: whoever only looked behind the last number would miss some for good. No
    claim waits for a row that another one is just taking (``SKIP LOCKED``).
    """

    def __init__(self, database: Database, app: str, token: str, lease_ms: int) -> None:
        self._database = database
        self._table = database.table
        self._app = app
        self._token = token
        self._lease_ms = lease_ms
        self._position = Position()

    def claim(self, limit: int, limit_bytes: int) -> list[OutboxRow]:
        """See :meth:`.Outbox.claim`."""
        limit = min(limit, self._database.chunk)
        if self._position.is_look_due():
            claimed = self._look(limit, limit_bytes)
        else:
            claimed = self._take(limit, self._position.low, limit_bytes)
        if claimed:
            self._position.claimed(claimed[-1].seq)
        return claimed

    def _look(self, limit: int, size: int) -> list[OutboxRow]:
        """Claim the first of all free rows, with those whose time has come."""
        began = time.monotonic()
        all_freed = self._free_due(limit) < limit
        claimed = self._take(limit, 0, size)
        took = time.monotonic() - began
        self._position.looked(took, all_freed=all_freed)
        return claimed

    def _take(self, limit: int, low: int, size: int) -> list[OutboxRow]:
        free, hold = self._free(limit, low), self._hold()
        if self._database.is_postgresql:
            with self._database.changing_at_once() as connection:
                rows = _take_at_once(connection, self._table, free, hold, size)
        else:
            with self._database.changing() as connection:
                rows = _take_in_steps(connection, self._table, free, hold, size)
        return sorted(rows, key=lambda row: row.seq)

    def look_again(self) -> None:
        """Look at all free rows with the next claim: some are free again."""
        self._position = Position()

    def take_over(self) -> bool:
        """See :meth:`.Outbox.take_over`."""
        c = self._table.c
        is_theirs = or_(c.token.is_(None), c.token != self._token)
        # They may lie before the place that earlier claims have come to.
        self.look_again()
        due = self._waiting(c.seq).where(c.due > 0, or_(is_theirs, c.due <= now_ms()))
        return len(self._free_some(due)) < self._database.chunk

    def release(self, target: Target) -> int | None:
        """See :meth:`.Outbox.release`."""
        c = self._table.c
        theirs = (c.target_queue == target.queue, c.exchange == target.exchange)
        due = self._waiting(c.seq).where(c.due > 0, c.token.is_(None), *theirs)
        self.look_again()
        freed = self._free_some(due.order_by(c.seq))
        return None if len(freed) < self._database.chunk else freed[-1]

    def _free_due(self, limit: int) -> int:
        """Free the rows whose time has come; returns how many."""
        due = self._waiting(self._table.c.seq)
        is_due = self._table.c.due.between(1, now_ms())
        return len(self._free_some(due.where(is_due), limit))

    def _free_some(self, due: Select[Any], limit: int | None = None) -> list[int]:
        """Free the first rows of *due*; returns their numbers."""
        with self._database.changing() as connection:
            some = due.limit(limit or self._database.chunk)
            seqs = list(connection.scalars(some.with_for_update(skip_locked=True)))
            if seqs:
                connection.execute(self._set_free(seqs))
        return seqs

    def _set_free(self, seqs: Sequence[int]) -> Update:
        c = self._table.c
        was_held = or_(c.maybe_sent, c.token.is_not(None))
        # In this order: MySQL's expressions see what was assigned before them.
        values = (c.maybe_sent, was_held), (c.token, None), (c.due, 0)
        freed = update(self._table).where(self._database.among(seqs))
        return freed.ordered_values(*values)

    def _free(self, limit: int, low: int) -> Select[Any]:
        """The first free rows after *low*, which are locked."""
        c = self._table.c
        free = [c.due == 0, c.seq > low]
        if self._database.is_postgresql:
            # The same. But of a column that equals a constant, PostgreSQL ignores the
            # order, and then it may read the primary key, dead rows and all.
            free = [c.due <= 0, tuple_(c.due, c.seq) > tuple_(0, low)]
        rows = self._waiting(c.seq, c.size).where(*free)
        some = rows.order_by(c.due, c.seq).limit(limit)
        return some.with_for_update(skip_locked=True)

    def _waiting(self, *columns: ColumnElement[Any]) -> Select[Any]:
        """Rows that are not dead, by the index that is made for it.

        MySQL locks each row that it reads, and so keeps it from the other claims.
        """
        rows = select(*columns).where(is_waiting(self._table, self._app))
        for dialect in "mysql", "mariadb":
            index = f"FORCE INDEX (`{due_index(self._table)}`)"
            rows = rows.with_hint(self._table, index, dialect)
        return rows

    def _hold(self) -> Update:
        due = now_ms() + self._lease_ms
        return update(self._table).values(token=self._token, due=due)


def _take_at_once(
    connection: Connection, table: Table, free: Select[Any], hold: Update, size: int
) -> Iterable[OutboxRow]:
    """In one statement.

    ``MATERIALIZED`` has the inner query run once only. Otherwise PostgreSQL may run it
    anew for each row, and then takes more rows than the limit.
    """
    ready = free.cte("ready").prefix_with("MATERIALIZED")
    before = func.sum(ready.c.size).over(order_by=ready.c.seq) - ready.c.size
    fitting = select(ready.c.seq, before.label("before")).subquery()
    taken = hold.where(table.c.seq == fitting.c.seq, fitting.c.before < size)
    rows = connection.execute(taken.returning(*columns_of(table)))
    return map(row_of, rows.all())


def _take_in_steps(
    connection: Connection, table: Table, free: Select[Any], hold: Update, size: int
) -> Iterable[OutboxRow]:
    """In three statements, since MySQL's ``UPDATE`` returns nothing."""
    seqs = _fitting(connection.execute(free).all(), size)
    if not seqs:
        return []
    taken = table.c.seq.in_(seqs)
    connection.execute(hold.where(taken))
    rows = connection.execute(select(*columns_of(table)).where(taken))
    return map(row_of, rows.all())


def _fitting(free: Iterable[Any], size: int) -> list[int]:
    """The numbers of the first rows, until they reach *size* bytes."""
    seqs = []
    for row in free:
        if size <= 0:
            break
        seqs.append(row.seq)
        size -= row.size
    return seqs


class Position:
    """How far the claims have come, so that the next one starts there.

    A row may appear behind the place where a claim has been. So claims start where the
    last look but one had come to, and each look starts at the beginning.
    """

    def __init__(self) -> None:
        #: Between two looks, claims skip the numbers up to this one.
        self.low = 0
        self._at_last_look = 0
        self._highest = 0
        self._next_look = 0.0

    def is_look_due(self) -> bool:
        return time.monotonic() >= self._next_look

    def looked(self, took: float, *, all_freed: bool) -> None:
        """Note a look that *took* so many seconds.

        Another is due at once unless *all_freed*.
        """
        self.low, self._at_last_look = self._at_last_look, self._highest
        if all_freed:
            pause = min(took / _LOOKS_SHARE, _LONGEST_PAUSE)
            self._next_look = time.monotonic() + max(pause, LOOK_INTERVAL)

    def claimed(self, seq: int) -> None:
        """Note that a claim has come to *seq*."""
        self._highest = max(self._highest, seq)
