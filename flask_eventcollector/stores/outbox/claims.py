"""Takes free rows, so that one process at a time has each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Table,
    Update,
    any_,
    func,
    literal,
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

#: Seconds between two claims that look for rows whose time has come.
LOOK_INTERVAL = 1.0
#: Seconds for which a row may be due before it is committed, and is still found by the
#: next look.
_LATE = 5.0
#: Seconds between two looks at all rows at most: one that was committed later than that
#: waits for one. Until a vacuum, such a look steps over all that was claimed.
_LONGEST_PAUSE = 15.0
#: Looks at all rows take at most this part of the time. A transaction that stays open
#: keeps vacuums from removing anything.
_LOOKS_SHARE = 0.03


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
        limit, position = min(limit, self._database.chunk), self._position
        began = time.monotonic()
        if position.is_whole_look_due(began):
            all_freed = self._look(limit, None)
            rows = self._take(limit, 0, limit_bytes)
            if rows:
                # There may be more before the place where claims have come to.
                position.go_back(rows[-1].seq)
            if all_freed:
                position.looked_at_all(time.monotonic() - began)
            return rows
        if position.is_look_due(began):
            self._look(limit, began - position.looked_at + _LATE)
        return self._take(limit, position.low, limit_bytes)

    def _look(self, limit: int, window: float | None) -> bool:
        """Free the rows whose time has come; returns whether these were all.

        :param window: within so many seconds; ``None``: whenever that was.
        """
        began = time.monotonic()
        first: ColumnElement[Any] = literal(1)
        if window is not None:
            first = now_ms() - round(window * 1000)
        is_due = self._table.c.due.between(first, now_ms())
        freed = self._free_some(self._waiting(self._table.c.seq).where(is_due), limit)
        if all_freed := len(freed) < limit:
            self._position.looked(began)
        if freed:
            self._position.go_back(min(freed) - 1)
        return all_freed

    def _take(self, limit: int, low: int, size: int) -> list[OutboxRow]:
        free, hold = self._free(limit, low), self._hold()
        if self._database.is_postgresql:
            with self._database.changing_at_once() as connection:
                rows = _take_at_once(connection, self._table, free, hold, size)
        else:
            with self._database.changing() as connection:
                rows = _take_in_steps(connection, self._table, free, hold, size)
        ordered = sorted(rows, key=lambda row: row.seq)
        self._position.claimed([row.seq for row in ordered])
        return ordered

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

    With a join instead of the array, it may compare each row of the table with each
    that is ready: seconds for some thousands. It expects one row of a table that was
    empty when it was last analyzed, as an outbox often is.
    """
    ready = free.cte("ready").prefix_with("MATERIALIZED")
    before = func.sum(ready.c.size).over(order_by=ready.c.seq) - ready.c.size
    fitting = select(ready.c.seq, before.label("before")).subquery()
    seqs = select(fitting.c.seq).where(fitting.c.before < size).scalar_subquery()
    among = table.c.seq == any_(func.array(seqs, type_=ARRAY(BigInteger)))
    rows = connection.execute(hold.where(among).returning(*columns_of(table)))
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

    A row may appear behind the place where a claim has been, if it was committed late.
    So claims start where they had come to before the last look but one, and after a
    look at all rows, at the first one.
    """

    def __init__(self) -> None:
        #: Claims skip the numbers up to this one.
        self.low = 0
        self._at_last_look = 0
        #: Up to here, everything that was free has been claimed.
        self._reached = 0
        self._highest = 0
        self.looked_at = float("-inf")
        self._next_whole_look = float("-inf")

    def is_look_due(self, now: float) -> bool:
        """Whether to look for rows whose time has just come."""
        return now >= self.looked_at + LOOK_INTERVAL

    def is_whole_look_due(self, now: float) -> bool:
        """Whether to look at all rows."""
        return now >= self._next_whole_look

    def looked(self, now: float) -> None:
        """Note a look at *now* that has freed all rows whose time has come."""
        self.looked_at = now
        self.low, self._at_last_look = self._at_last_look, self._reached

    def looked_at_all(self, took: float) -> None:
        """Note a look at all rows, which *took* so many seconds."""
        pause = min(took / _LOOKS_SHARE, _LONGEST_PAUSE)
        self._next_whole_look = time.monotonic() + max(pause, LOOK_INTERVAL)

    def go_back(self, seq: int) -> None:
        """Let the next claim find what is free after *seq*."""
        self.low = min(self.low, seq)
        self._at_last_look = min(self._at_last_look, seq)
        self._reached = min(self._reached, seq)

    def claimed(self, seqs: Sequence[int]) -> None:
        """Note what one claim has found, which may be nothing."""
        if seqs:
            self._reached = seqs[-1]
            self._highest = max(self._highest, self._reached)
        else:
            self._reached = self._highest
