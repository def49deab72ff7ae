"""A table of the outbox in some database, and processes that use it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, MetaData, event, update

from flask_eventcollector.stores.outbox.admin import OutboxAdmin
from flask_eventcollector.stores.outbox.clock import now_ms
from flask_eventcollector.stores.outbox.database import Database
from flask_eventcollector.stores.outbox.leader import Leadership, leader
from flask_eventcollector.stores.outbox.outbox import LEASE, Outbox
from flask_eventcollector.stores.outbox.rows import OutboxRow
from flask_eventcollector.stores.outbox.table import make_outbox_table
from tests.helpers import payloads
from tests.parts import make_event

APP = "shop"
#: More than any test claims.
MUCH = 1 << 30

_numbers = itertools.count(1)


class Place:
    """A new table in the database at *url*."""

    def __init__(
        self, url: str, naming: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        self.url = url
        self.engine = sqlalchemy.create_engine(url, **options)
        self.metadata = MetaData(naming_convention=naming)
        self.table = make_outbox_table(self.metadata, f"outbox_{next(_numbers)}")
        self.metadata.create_all(self.engine)
        self._databases: list[Database] = []

    def database(self) -> Database:
        """Connections as a process has them."""
        self._databases.append(Database(self.engine, self.table))
        return self._databases[-1]

    def outbox(self, app: str = APP, *, lease: float = LEASE) -> Outbox:
        """The outbox as a process sees it."""
        return Outbox(self.database(), app, lease=lease)

    def admin(self, app: str = APP) -> OutboxAdmin:
        return OutboxAdmin(self.database(), app)

    def leadership(self, name: str, *, app: str = APP, lease: float = 30) -> Leadership:
        return Leadership(self.database(), app, name, f"process {name}", lease=lease)

    def leader(self, app: str = APP) -> str | None:
        """The name of the app's active relay."""
        return leader(self.database(), app)

    def write(
        self,
        outbox: Outbox,
        payloads: Iterable[Any],
        *,
        held: bool = False,
        **more: Any,
    ) -> list[int]:
        """Commit an event for each payload; returns the rows' numbers."""
        events = [make_event(payload, **more) for payload in payloads]
        with self.engine.begin() as connection:
            return outbox.write(connection, events, held=held)

    def end_leases(self) -> None:
        """Let time pass: all that is due some time is due now."""
        due = self.table.c.due
        with self.engine.begin() as connection:
            connection.execute(update(self.table).where(due > 0).values(due=now_ms()))

    def values(self, column: str) -> list[Any]:
        """A column of all rows, in their order."""
        c = self.table.c
        with self.engine.connect() as connection:
            rows = sqlalchemy.select(c[column]).order_by(c.seq)
            return list(connection.scalars(rows))

    def clear(self) -> None:
        """Close the connections of the processes, and leave nothing in the table."""
        while self._databases:
            self._databases.pop().close()
        with self.engine.begin() as connection:
            for table in self.metadata.tables.values():
                connection.execute(sqlalchemy.delete(table))

    def close(self) -> None:
        """Close all connections."""
        for database in self._databases:
            database.close()
        self.engine.dispose()


@contextmanager
def statements(engine: sqlalchemy.Engine) -> Iterator[list[tuple[str, Any]]]:
    """What is executed through *engine*, with its parameters."""
    executed: list[tuple[str, Any]] = []

    def note(
        _connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> None:
        executed.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    yield executed
    event.remove(engine, "before_cursor_execute", note)


def seqs(rows: Sequence[OutboxRow]) -> list[int]:
    return [row.seq for row in rows]


def sent(rows: Sequence[OutboxRow]) -> list[Any]:
    """The payloads of the rows' events."""
    return payloads(tuple(row.event for row in rows))
