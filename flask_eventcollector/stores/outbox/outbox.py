"""What a process does with the rows of the outbox."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Insert,
    and_,
    bindparam,
    delete,
    false,
    insert,
    or_,
    select,
    update,
)

from ...errors import ConfigurationError
from ...events import Event, Target
from .claims import Claims
from .clock import now_ms
from .database import Database, check_transaction, explained
from .rows import OutboxRow, storable, values_of
from .table import DEAD, MAX_APP, MAX_REASON, WAITING

#: Seconds for which a process holds rows unless it renews its lease.
LEASE = 30.0
#: Of the events that one statement writes, unless a single one is larger. MariaDB takes
#: 16 MiB (``max_allowed_packet``), and bytes may need twice as much in a statement.
_STATEMENT_BYTES = 1024 * 1024


class Refused(NamedTuple):
    """A row whose event is to be dead."""

    seq: int
    #: At most 1 000 characters of it are kept.
    reason: str
    #: How many times it was sent.
    attempts: int
    #: Whether it may have been sent all the same.
    maybe_sent: bool = False


def check_app(app: str) -> str:
    """*app*, if a row can have that name.

    :raises ConfigurationError: it can't.
    """
    cure = "set EVENTCOLLECTOR_SPOOL_NAME to another name"
    if len(app) > MAX_APP:
        raise ConfigurationError(
            f"The outbox keeps {MAX_APP} characters of an app's name, but"
            f" {app[:20]!r}… has {len(app)}: {cure}"
        )
    if storable(app) != app:
        raise ConfigurationError(f"The outbox can't store the name {app!r}: {cure}")
    return app


class Outbox:
    """The rows of one app, as one process sees them.

    A row is free; or a process holds it until its lease runs out; or it waits for a
    while, and nobody holds it; or it is dead. A process changes only what it holds. So
    each method returns how many rows that were: fewer than it was given means that a
    lease has run out, and another process has the rest, or had it.

    Thread-safe. Except for :meth:`write`, each method is a short transaction of its
    own on *database*, or several for many rows, and may block for as long as the
    database does. It raises a :exc:`sqlalchemy.exc.SQLAlchemyError` if the database
    fails, and a :exc:`.ConfigurationError` if the table is missing.

    :param app: whose events these are: a name with at most 64 characters.
    :param lease: in seconds, by the database's clock.
    """

    def __init__(self, database: Database, app: str, *, lease: float = LEASE) -> None:
        self.app = check_app(app)
        #: Says in a row that this process holds it.
        self.token = str(uuid4())
        self._database = database
        self._table = database.table
        self._lease_ms = round(lease * 1000)
        self._claims = Claims(database, app, self.token, self._lease_ms)
        self._inserts = {held: _Inserts(self._new_row(held)) for held in (False, True)}
        due = now_ms() + bindparam("delay", type_=BigInteger)
        self._delayed = _Inserts(self._new_row(False).values(due=due))

    def write(
        self, connection: Connection, events: Iterable[Event], *, held: bool
    ) -> list[int]:
        """Write a row for each event, in the transaction of *connection*.

        They become real, and visible to :meth:`read`, by its commit. This is one
        statement for up to 1 000 events, or 1 MiB, in a row that are delayed, or are
        not; but on MySQL and SQLite one for each event.

        :param connection: for example ``session.connection()``.
        :param held: whether this process holds the rows, and so must send them.
            Otherwise they are free, and whoever claims them first does. Those of
            delayed events are free once they are due.
        :returns: the rows' numbers, in the order of the events.
        :raises ConfigurationError: *connection* commits each statement at once.
        """
        check_transaction(connection)
        self._database.check_schema(connection)
        seqs: list[int] = []
        with explained(self._table):
            for is_delayed, some in groupby(events, lambda event: event.has_delay):
                for portion in _portions(some):
                    if is_delayed:
                        rows = [*map(_delayed, portion)]
                        seqs += self._delayed.execute(connection, rows)
                    else:
                        rows = [*map(values_of, portion)]
                        seqs += self._inserts[held].execute(connection, rows)
        return seqs

    def take_back(self, connection: Connection, seqs: Iterable[int]) -> None:
        """Erase rows that the transaction of *connection* has written."""
        for chunk in self._database.chunks(seqs):
            written = delete(self._table).where(self._database.among(chunk))
            connection.execute(written)

    def read(self, seqs: Iterable[int]) -> dict[int, str]:
        """The events' ids in those rows that are committed, and held by this process.

        SQLite gives the number of a row that was rolled back to another one.
        """
        found: dict[int, str] = {}
        for chunk in self._database.chunks(seqs):
            with self._database.reading() as connection:
                c = self._table.c
                held = select(c.seq, c.event_id).where(self._held(chunk))
                found.update((seq, id) for seq, id in connection.execute(held))
        return found

    def claim(self, limit: int, limit_bytes: int) -> list[OutboxRow]:
        """Hold the oldest free rows, and return them in their order.

        Rows that have waited, and those whose lease has run out, are back in their
        places within a second. The latter are marked as
        :attr:`~.OutboxRow.maybe_sent`.

        :param limit: the most rows. There may be fewer although more are free: at most
            2 000, on SQLite 100.
        :param limit_bytes: no more rows than it takes to reach this size. The first row
            may be larger.
        """
        return self._claims.claim(limit, limit_bytes)

    def renew(self, seqs: Iterable[int]) -> int:
        """Hold rows for another lease; returns how many.

        Fewer than given: :meth:`read` says which ones are left. There may be others
        with the token of this process that it does not know of, since a commit whose
        answer was lost may have succeeded. Their lease must run out.
        """
        return self._change(seqs, due=now_ms() + self._lease_ms)

    def erase(self, seqs: Iterable[int]) -> int:
        """Erase rows whose events were confirmed; returns how many.

        This includes those whose lease has run out, unless another process holds them:
        they need not be sent again.
        """
        c, among, erased = self._table.c, self._database.among, 0
        not_theirs = or_(c.token == self.token, c.token.is_(None))
        for chunk in self._database.chunks(seqs):
            confirmed = delete(self._table).where(among(chunk), not_theirs)
            with self._database.changing_at_once() as connection:
                erased += connection.execute(confirmed).rowcount
        return erased

    def die(self, refused: Iterable[Refused]) -> int:
        """Let rows be dead: nobody claims them; returns how many."""
        return sum(self._die(seqs, why) for why, seqs in _by_reason(refused))

    def revive(self, seqs: Iterable[int], *, maybe_sent: bool = False) -> int:
        """Let rows be free that are dead, or that this process holds; returns how many.

        :param maybe_sent: whether their events may have been sent.
        """
        c, among, revived = self._table.c, self._database.among, 0
        fresh = {"attempts": 0, "reason": None}
        free = {"state": WAITING, "token": None, "due": 0, **_marked(maybe_sent)}
        ours = or_(c.state == DEAD, c.token == self.token)
        for chunk in self._database.chunks(seqs):
            again = update(self._table).where(among(chunk), ours)
            with self._database.changing_at_once() as connection:
                revived += connection.execute(again.values(**free, **fresh)).rowcount
        return self._freed(revived)

    def still_dead(self, seqs: Iterable[int]) -> set[int]:
        """Those of the rows that nobody has freed or erased."""
        c, among, found = self._table.c, self._database.among, set[int]()
        for chunk in self._database.chunks(seqs):
            dead = select(c.seq).where(among(chunk), c.state == DEAD)
            with self._database.reading() as connection:
                found.update(connection.scalars(dead))
        return found

    def give_back(self, seqs: Iterable[int], *, maybe_sent: bool = False) -> int:
        """Let rows be free again, in their places; returns how many.

        :param maybe_sent: whether their events may have been sent.
        """
        free = {"token": None, "due": 0, **_marked(maybe_sent)}
        return self._freed(self._change(seqs, **free))

    def postpone(
        self, seqs: Iterable[int], delay: float, *, maybe_sent: bool = False
    ) -> int:
        """Let rows wait for so many seconds, or for :meth:`release`; returns how many.

        Until then nobody holds them.

        :param maybe_sent: whether their events may have been sent.
        """
        due = now_ms() + round(delay * 1000)
        return self._change(seqs, token=None, due=due, **_marked(maybe_sent))

    def release(self, target: Target) -> int | None:
        """Free the first rows for *target* that wait: 2 000, or on SQLite 100.

        Returns the number of the last one; ``None``: no more wait.
        """
        return self._claims.release(target)

    def take_over(self) -> bool:
        """Free all rows but those that this process holds: any other lead has ended.

        So a new leader keeps the order. What was held is marked as possibly sent. Frees
        as many at a time as :meth:`release`; returns whether these are all.
        """
        return self._claims.take_over()

    def _new_row(self, held: bool) -> Insert:
        row = insert(self._table).values(app=self.app, maybe_sent=false())
        if not held:
            return row
        return row.values(token=self.token, due=now_ms() + self._lease_ms)

    def _held(self, seqs: Sequence[int]) -> ColumnElement[bool]:
        is_ours = self._table.c.token == self.token
        return and_(self._database.among(seqs), is_ours)

    def _freed(self, rows: int) -> int:
        """So many *rows* are free that may lie before where claims have come to."""
        if rows:
            self._claims.look_again()
        return rows

    def _die(self, seqs: Iterable[int], why: Refused) -> int:
        return self._change(
            seqs,
            state=DEAD,
            token=None,
            due=0,
            attempts=why.attempts,
            reason=storable(why.reason)[:MAX_REASON],
            **_marked(why.maybe_sent),
        )

    def _change(self, seqs: Iterable[int], **values: Any) -> int:
        """Change those of the rows that this process holds; returns how many."""
        changed = 0
        for chunk in self._database.chunks(seqs):
            held = update(self._table).where(self._held(chunk))
            with self._database.changing_at_once() as connection:
                changed += connection.execute(held.values(**values)).rowcount
        return changed


class _Inserts:
    """Statements that insert rows and return their numbers, made once.

    To make one takes as long as to execute it, while a request waits.
    """

    def __init__(self, row: Insert) -> None:
        seq = row.table.c.seq
        self._row = row
        self._one = row.returning(seq)
        self._many = row.returning(seq, sort_by_parameter_order=True)

    def execute(self, connection: Connection, rows: list[dict[str, Any]]) -> list[int]:
        """Insert *rows*; returns their numbers, in the same order."""
        if not connection.dialect.insert_executemany_returning:
            # MySQL tells the number of a single row only.
            return [connection.execute(self._row, row).lastrowid for row in rows]
        if len(rows) == 1:
            return list(connection.scalars(self._one, rows[0]))
        return list(connection.scalars(self._many, rows))


def _portions(events: Iterable[Event]) -> Iterator[list[Event]]:
    """*events* in lists that fit into one statement each."""
    portion, size = list[Event](), 0
    for event in events:
        if portion and size + event.size > _STATEMENT_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(event)
        size += event.size
    if portion:
        yield portion


def _delayed(event: Event) -> dict[str, Any]:
    """The values of a row that waits until *event* is due."""
    return {**values_of(event), "delay": round(event.due_in * 1000)}


def _marked(maybe_sent: bool) -> dict[str, Any]:
    """What a row gets whose event may have been sent. It never loses that."""
    return {"maybe_sent": True} if maybe_sent else {}


def _by_reason(refused: Iterable[Refused]) -> Iterable[tuple[Refused, list[int]]]:
    """What was refused in the same way, once, with the rows' numbers."""
    groups: dict[Refused, list[int]] = {}
    for one in refused:
        groups.setdefault(one._replace(seq=0), []).append(one.seq)
    return groups.items()
