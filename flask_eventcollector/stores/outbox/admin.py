"""What an operator does with the rows of the outbox."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    and_,
    case,
    cast,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from ...errors import ConfigurationError
from ..plain import time_of
from .check import Difference, check
from .database import Database
from .leader import leader
from .rows import OutboxRow, columns_of, row_of
from .table import DEAD, WAITING

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
    #: For their next try.
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


class OutboxAdmin:
    """The rows of one app, as an operator sees them.

    Here, too, rows decide what is sent: what is purged is not, except for what is just
    on its way to the broker.
    """

    def __init__(self, database: Database, app: str) -> None:
        self._database = database
        self._table = database.table
        self._app = app

    def apps(self) -> list[str]:
        """The names of all apps that have rows in the table."""
        app = self._table.c.app
        with self._database.reading() as connection:
            return list(connection.scalars(select(app).distinct().order_by(app)))

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
        waiting, has_holder = c.state == WAITING, c.token.is_not(None)
        sums = select(
            _count(waiting, c.due == 0),
            _count(waiting, c.due != 0, has_holder),
            _count(waiting, c.due != 0, ~has_holder),
            _count(c.state == DEAD),
            _sum(c.size),
            func.min(case((waiting, c.enqueued_at))),
        ).where(c.app == self._app)
        if newest is not None:
            sums = sums.where(c.seq <= newest)
        with self._database.reading() as connection:
            free, held, delayed, dead, size, oldest = connection.execute(sums).one()
        oldest = None if oldest is None else time_of(oldest)
        return Counts(free, held, delayed, dead, size, oldest)

    def rows(
        self,
        *,
        ids: Sequence[str] | None = None,
        id_prefix: str = "",
        queue: str | None = None,
        dead: bool | None = None,
    ) -> Iterator[OutboxRow]:
        """The rows that meet all conditions, in their order, read page by page.

        :param ids: the events' ids, a few hundred at most.
        :param id_prefix: how the event's id begins.
        :param queue: the target queue's name.
        :param dead: whether they are dead; ``None``: either.
        """
        c = self._table.c
        conditions = [c.app == self._app]
        if ids is not None:
            conditions.append(c.event_id.in_(ids))
        if id_prefix:
            conditions.append(c.event_id.startswith(id_prefix, autoescape=True))
        if queue is not None:
            conditions.append(c.target_queue == queue)
        if dead is not None:
            conditions.append(c.state == (DEAD if dead else WAITING))
        return self._pages(conditions)

    def retry(self, seqs: Sequence[int], *, to: str | None = None) -> list[int]:
        """Let rows be free that are dead or wait for their next try.

        Those that a process holds are left, since it sends them. Returns the numbers of
        those that are free now.

        :param to: another target queue.
        """
        c = self._table.c
        fresh = {"attempts": 0, "reason": None, "refused_since": None}
        queue = {} if to is None else {"target_queue": to}
        rows = update(self._table)
        rows = rows.values(state=WAITING, due=0, **fresh, **queue)
        return self._change(rows, seqs, or_(c.state == DEAD, c.token.is_(None)))

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
        self, rows: Any, seqs: Sequence[int], *conditions: ColumnElement[bool]
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
        return changed


def _count(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
    """How many rows meet all *conditions*."""
    return _sum(case((and_(*conditions), 1), else_=0))


def _sum(value: ColumnElement[int]) -> ColumnElement[int]:
    # Some databases return a sum as a decimal number, and that of no rows as NULL.
    return cast(func.coalesce(func.sum(value), 0), BigInteger)
