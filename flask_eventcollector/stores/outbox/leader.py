"""Which relay is the active one."""

from __future__ import annotations

from sqlalchemy import insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from .clock import now_ms
from .database import Database
from .table import leader_table


class Leadership:
    """A row that one process of an app holds at a time.

    The holder is the leader until its lease runs out, by the database's clock. So it
    must call :meth:`lead` in time, about thrice in a lease, and stop leading as soon as
    that fails. Each call may block for as long as the database does.

    :param token: says in the row who holds it.
    :param name: who that is, for people, such as the host's name and the process id.
    :param lease: seconds.
    """

    def __init__(
        self, database: Database, app: str, token: str, name: str, *, lease: float
    ) -> None:
        self._database = database
        self._table = leader_table(database.table)
        self._app = app
        self._values = {"token": token, "name": name[:255]}
        self._token = token
        self._lease = round(lease * 1000)

    def lead(self) -> bool:
        """Become the leader, or stay it; returns whether this process is it now."""
        c = self._table.c
        vacant = or_(c.token == self._token, c.token.is_(None), c.until <= now_ms())
        ours = update(self._table).where(c.app == self._app, vacant)
        until = now_ms() + self._lease
        with self._database.changing_at_once() as connection:
            if connection.execute(ours.values(until=until, **self._values)).rowcount:
                return True
        with self._database.reading() as connection:
            if connection.scalar(select(c.app).where(c.app == self._app)) is not None:
                return False
        return self._lead_first()

    def _lead_first(self) -> bool:
        """Add the row, unless another process is doing so."""
        until = now_ms() + self._lease
        row = insert(self._table).values(app=self._app, until=until, **self._values)
        try:
            with self._database.changing_at_once() as connection:
                connection.execute(row)
        except IntegrityError:
            return False
        return True

    def resign(self) -> None:
        """Let another process lead at once."""
        c = self._table.c
        ours = update(self._table).where(c.app == self._app, c.token == self._token)
        with self._database.changing_at_once() as connection:
            connection.execute(ours.values(token=None, until=0))


def leader(database: Database, app: str) -> str | None:
    """The leader's name; ``None``: there is none at the moment."""
    c = leader_table(database.table).c
    held = (c.app == app, c.token.is_not(None), c.until > now_ms())
    with database.reading() as connection:
        return connection.scalar(select(c.name).where(*held))
