"""What an operator does with the rows of the outbox."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice, starmap
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Update,
    and_,
    case,
    cast,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from ...errors import ConfigurationError
from ...events import Event, Target
from ..filter import ALL, Filter
from ..plain import time_of
from ..progress import OnProgress, ignore
from ..sums import TargetSum
from .check import Difference, check
from .clock import now_ms
from .database import Database
from .leader import leader
from .narrowing import narrowed
from .rows import OutboxRow, columns_of, row_of, storable, values_of
from .table import DEAD, MAX_REASON, WAITING

#: What an :class:`OutboxAdmin` raises if the database fails, or the table is missing.
FAILURES = (ConfigurationError, SQLAlchemyError)

#: The most rows that are read at a time, since each has a body.
_PAGE = 100


class Counts(NamedTuple):
    """How many rows there are, by what they wait for."""

    #: To be claimed.
    free: int
    #: For the process that holds them, or for the end of its lease.
    held: int
    #: For their time, such as those of delayed events.
    delayed: int
    #: For an operator.
    dead: int
    #: Of all events, as they count against ``EVENTCOLLECTOR_MAX_BYTES``.
    bytes: int
    #: When the oldest event that is not dead was enqueued; ``None``: there is none.
    oldest: datetime | None

    @property
    def waiting(self) -> int:
        """All that are not dead."""
        return self.free + self.held + self.delayed


#: Seconds for which an app's rows have waited that no process sends, as far as anybody
#: can tell: its processes look for rows every ten seconds.
_ABANDONED = 30.0


class OutboxAdmin:
    """The rows of one app, as an operator sees them.

    Here, too, rows decide what is sent: what is purged is not, except for what is just
    on its way to the broker.
    """

    def __init__(self, database: Database, app: str) -> None:
        self._database = database
        self._table = database.table
        self._app = app

    def differences(self) -> list[Difference]:
        """How the tables in the database differ from what is expected."""
        with self._database.reading() as connection:
            return check(connection, self._table)

    def leader(self) -> str | None:
        """Which relay is the active one; ``None``: none is."""
        return leader(self._database, self._app)

    def newest(self) -> int:
        """The highest number of a row; 0: there is none."""
        c = self._table.c
        newest = select(func.coalesce(func.max(c.seq), 0)).where(c.app == self._app)
        with self._database.reading() as connection:
            return int(connection.scalar(newest) or 0)

    def counts(self, newest: int | None = None) -> Counts:
        """Count the rows; takes about a second for a million.

        :param newest: only those with this number at most.
        """
        c = self._table.c
        sums = self._sums().where(c.app == self._app)
        if newest is not None:
            sums = sums.where(c.seq <= newest)
        with self._database.reading() as connection:
            return _counts(connection.execute(sums).one())

    def sums_by_target(self, count: int) -> list[TargetSum]:
        """What the *count* targets with the most rows have; as fast as :meth:`counts`.

        A target's reason is one of those of its rows.
        """
        c = self._table.c
        postponed = and_(c.state == WAITING, c.token.is_(None), c.due != 0)
        rows = func.count().label("rows")
        sums = (
            select(
                c.exchange,
                c.target_queue,
                rows,
                _count(c.state == DEAD),
                func.min(c.enqueued_at),
                func.max(c.reason),
                func.max(c.attempts),
                func.min(case((postponed, c.due - now_ms()))),
            )
            .where(c.app == self._app)
            .group_by(c.exchange, c.target_queue)
            .order_by(rows.desc())
            .limit(count)
        )
        with self._database.reading() as connection:
            return [_target_sum(*row) for row in connection.execute(sums)]

    def others(self) -> dict[str, Counts]:
        """The rows of all other apps in the table, by their names."""
        app = self._table.c.app
        sums = self._sums().add_columns(app).where(app != self._app)
        with self._database.reading() as connection:
            rows = connection.execute(sums.group_by(app).order_by(app)).all()
        return {name: _counts(counts) for *counts, name in rows}

    def strays(self) -> dict[str, Counts]:
        """Those of other apps that no process sends: this app may have been renamed."""
        before = time_of(round((time.time() - _ABANDONED) * 1e6))
        return {
            name: counts
            for name, counts in self.others().items()
            if not counts.held and counts.oldest is not None and counts.oldest < before
        }

    def _sums(self) -> Any:
        c = self._table.c
        waiting, has_holder = c.state == WAITING, c.token.is_not(None)
        lapsed = and_(has_holder, c.due <= now_ms())
        return select(
            _count(waiting, or_(c.due == 0, lapsed)),
            _count(waiting, has_holder, c.due > now_ms()),
            _count(waiting, ~has_holder, c.due != 0),
            _count(c.state == DEAD),
            _sum(c.size),
            func.min(case((waiting, c.enqueued_at))),
        )

    def rows(
        self,
        *,
        ids: Sequence[str] | None = None,
        seqs: Sequence[int] | None = None,
        wanted: Filter = ALL,
    ) -> Iterator[OutboxRow]:
        """The rows that meet all conditions, in their order, read page by page.

        :param ids: the events' ids, a few hundred at most.
        :param seqs: the rows' numbers, a few hundred at most.
        """
        c = self._table.c
        conditions = [c.app == self._app, *narrowed(self._table, wanted)]
        if ids is not None:
            conditions.append(c.event_id.in_(ids))
        if seqs is not None:
            conditions.append(self._database.among(seqs))
        return (row for row in self._pages(conditions) if _is_wanted(row, wanted))

    def ids(self, prefix: str = "") -> set[str]:
        """The events' ids that begin with *prefix*."""
        c = self._table.c
        ids = select(c.event_id).where(c.app == self._app)
        if prefix:
            ids = ids.where(c.event_id.startswith(prefix, autoescape=True))
        with self._database.reading() as connection:
            # SQLite does not distinguish upper and lower case.
            return {id for id in connection.scalars(ids) if id.startswith(prefix)}

    def add(self, events: Iterable[tuple[Event, str | None]]) -> None:
        """Add rows, all or none: for an event that is dead, its reason.

        They are free, and marked as possibly sent.
        """
        row = insert(self._table).values(app=self._app, maybe_sent=true())
        values = starmap(_imported, events)
        with self._database.changing() as connection:
            while page := [*islice(values, _PAGE)]:
                connection.execute(row, page)

    def retry(
        self,
        seqs: Sequence[int],
        *,
        to: str | None = None,
        on_progress: OnProgress = ignore,
    ) -> list[int]:
        """Let rows be free that are dead, or wait while nobody holds them.

        Those that a process holds are left, since it sends them. Returns the numbers of
        those that are free now.

        :param to: another target queue.
        """
        c = self._table.c
        fresh = {"attempts": 0, "reason": None}
        queue = {} if to is None else {"target_queue": to}
        rows = update(self._table)
        rows = rows.values(state=WAITING, due=0, **fresh, **queue)
        free = or_(c.state == DEAD, c.token.is_(None))
        return self._change(rows, seqs, free, on_progress=on_progress)

    def adopt(self, app: str) -> int:
        """Make the rows of *app* this app's own; returns how many.

        Those that a process holds are left, since it sends them.
        """
        c, adopted = self._table.c, 0
        free = or_(c.token.is_(None), c.due <= now_ms())
        theirs = select(c.seq).where(c.app == app, free).order_by(c.seq)
        some = theirs.limit(self._database.chunk).with_for_update(skip_locked=True)
        while True:
            with self._database.changing() as connection:
                seqs = list(connection.scalars(some))
                if not seqs:
                    return adopted
                connection.execute(self._make_own(seqs))
            adopted += len(seqs)

    def _make_own(self, seqs: Sequence[int]) -> Update:
        c = self._table.c
        lapsed = c.token.is_not(None)
        # In this order: MySQL's expressions see what was assigned before them.
        return (
            update(self._table)
            .where(self._database.among(seqs))
            .ordered_values(
                (c.app, self._app),
                (c.maybe_sent, or_(c.maybe_sent, lapsed)),
                (c.due, case((lapsed, 0), else_=c.due)),
                (c.token, None),
            )
        )

    def purge(self, seqs: Sequence[int]) -> list[int]:
        """Erase rows, whoever holds them; returns the numbers of those that were."""
        return self._change(delete(self._table), seqs)

    def _pages(self, conditions: Sequence[ColumnElement[bool]]) -> Iterator[OutboxRow]:
        c, last, page = self._table.c, 0, None
        rows = select(*columns_of(self._table)).where(*conditions).order_by(c.seq)
        while page is None or len(page) == _PAGE:
            with self._database.reading() as connection:
                after = rows.where(c.seq > last).limit(_PAGE)
                page = [row_of(row) for row in connection.execute(after)]
            yield from page
            last = page[-1].seq if page else last

    def _change(
        self,
        rows: Any,
        seqs: Sequence[int],
        *conditions: ColumnElement[bool],
        on_progress: OnProgress = ignore,
    ) -> list[int]:
        """Execute *rows* for those of *seqs* that meet the conditions; returns them."""
        c, among = self._table.c, self._database.among
        changed: list[int] = []
        for chunk in self._database.chunks(seqs):
            ours = select(c.seq).where(c.app == self._app, among(chunk))
            locked = ours.where(*conditions).order_by(c.seq).with_for_update()
            with self._database.changing() as connection:
                found = connection.scalars(locked).all()
                connection.execute(rows.where(among(found)))
            changed += found
            on_progress(len(chunk))
        return changed


def _imported(event: Event, dead: str | None) -> dict[str, Any]:
    reason = None if dead is None else storable(dead)[:MAX_REASON]
    return {**values_of(event), "state": int(dead is not None), "reason": reason}


def _counts(row: Sequence[Any]) -> Counts:
    free, held, delayed, dead, size, oldest = row[:6]
    oldest = None if oldest is None else time_of(oldest)
    return Counts(free, held, delayed, dead, size, oldest)


def _target_sum(
    exchange: str,
    queue: str,
    rows: int,
    dead: int,
    oldest: int,
    reason: str | None,
    attempts: int,
    due_in: int | None,
) -> TargetSum:
    return TargetSum(
        Target(exchange, queue),
        rows - dead,
        dead,
        oldest,
        reason or "",
        attempts or None,
        None if due_in is None else max(0, due_in) / 1000,
    )


def _is_wanted(row: OutboxRow, wanted: Filter) -> bool:
    return (
        wanted.selects_queue(row.event.target)
        and wanted.selects_age(row.event)
        and wanted.selects_reason(row.reason)
    )


def _count(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
    """How many rows meet all *conditions*."""
    return _sum(case((and_(*conditions), 1), else_=0))


def _sum(value: ColumnElement[int]) -> ColumnElement[int]:
    # Some databases return a sum as a decimal number, and that of no rows as NULL.
    return cast(func.coalesce(func.sum(value), 0), BigInteger)
