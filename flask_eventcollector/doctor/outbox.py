"""Checks the outbox: its tables, its database, and who sends its rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ..backlog.wording import age, age_of
from ..config.settings import OutboxRelay, choose_spool_name
from ..messages.wording import counted, waiting
from ..stores.filter import Filter
from .case import LONG, LOOK, Case
from .findings import Finding, of_dead, ok, problem, split, warning

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ..stores.outbox.admin import Counts, OutboxAdmin
    from ..stores.outbox.database import Database
    from ..stores.outbox.rows import OutboxRow

#: Seconds after which a transaction counts as old.
OLD = 60.0
#: Seconds by which clocks may differ.
_CLOCKS = 5.0


class Unopened(Exception):
    """There is no outbox, or its database can't be used."""

    def __init__(self, what: str = "", cure: str = "") -> None:
        super().__init__(what)
        self.finding = problem(f"it can't be used: {what}", cure)


class Opened(NamedTuple):
    """The outbox, on connections of its own."""

    engine: Engine
    database: Database
    admin: OutboxAdmin


@contextmanager
def opened(case: Case) -> Iterator[Opened]:
    """Connect to the outbox for the time of the block.

    :raises Unopened: it can't be used, or the database fails meanwhile.
    """
    bound = case.state.sessions.outbox
    if bound is None or not case.state.has_outbox:
        raise Unopened
    if case.engine is None:
        raise Unopened(*_NO_ENGINE)
    # Only those who bind an outbox have SQLAlchemy.
    from ..stores.outbox.admin import FAILURES, OutboxAdmin
    from ..stores.outbox.database import Database

    try:
        database = Database(case.engine, bound.table)
        try:
            name = choose_spool_name(case.config, case.app)
            yield Opened(case.engine, database, OutboxAdmin(database, name))
        finally:
            database.close()
    except FAILURES as error:
        raise _explained(error) from error


_NO_ENGINE = (
    "the bound session has no engine here",
    "give it one, or pass bind_session() an outbox_engine",
)
_NO_DATABASE = (
    "see whether the database runs, and whether the app has the right URL and user"
)


def _explained(error: Exception) -> Unopened:
    # Not the text of SQLAlchemy's error, which has the statement.
    original = getattr(error, "orig", None)
    if original is not None:
        return Unopened(" ".join(str(original).split()), _NO_DATABASE)
    return Unopened(*split(str(error)))


def tables(case: Case) -> Iterator[Finding]:
    """Whether the database can be reached, and its tables are as expected."""
    if not case.state.has_outbox:
        return
    try:
        with opened(case) as outbox:
            found = outbox.admin.differences()
    except Unopened as error:
        yield error.finding
        return
    case.has_tables = not any(d.what.startswith("There is no table") for d in found)
    for difference in found:
        yield problem(*difference)
    if not found:
        yield ok(f"the tables in {outbox.engine.dialect.name} are as expected")


def relay(case: Case) -> Iterator[Finding]:
    """Whether somebody sends its rows."""
    if not case.has_tables:
        return
    with opened(case) as outbox:
        counts, strays = outbox.admin.counts(), outbox.admin.strays()
        found = [*_unsent(case, outbox.admin, counts)]
    for app in strays:
        found.append(
            warning(
                f"nobody sends the rows of app {app!r}, which has no process",
                f"if this app was renamed, run 'flask events adopt --from {app}'",
            )
        )
    if counts.dead:
        found.append(of_dead(counted(counts.dead, "row")))
    yield from found or [ok(f"{waiting(counts.waiting, 'row')}, and none is dead")]


def _unsent(case: Case, admin: OutboxAdmin, counts: Counts) -> Iterator[Finding]:
    """The rows that no process takes."""
    is_external = case.config.outbox_relay is OutboxRelay.EXTERNAL
    if is_external and admin.leader() is None:
        yield problem(
            "no relay is active, so nobody sends its rows"
            f" ({waiting(counts.waiting, 'row')})",
            "run 'flask events relay' as a service",
        )
    elif case.node is not None and not _is_explained(case):
        yield from _late(admin, counts.waiting)


def _is_explained(case: Case) -> bool:
    """Whether a running process says what keeps it from sending."""
    books = [counts.books for counts in case.running()]
    return any(one.broker.is_trouble or one.problem_targets for one in books)


def _late(admin: OutboxAdmin, count: int) -> Iterator[Finding]:
    first = _late_row(admin)
    if first is None:
        return
    time.sleep(LOOK)
    still = _late_row(admin)
    if still is not None and still.seq == first.seq:
        since = age(age_of(first.event.enqueued_at))
        yield problem(
            f"{waiting(count, 'row')}; the oldest, for {str(first.event.target)!r}, was"
            f" not sent in {since}",
            "see whether that queue is full, whether the app (or its relay) runs with"
            " this database and this broker, and what its log says",
        )


def _late_row(admin: OutboxAdmin) -> OutboxRow | None:
    """The first row that should have been sent, of the first thousand that are old."""
    late = admin.rows(wanted=Filter(waiting=True, older_than=LONG))
    return next((row for row in islice(late, 1000) if not row.event.due_in), None)


def database(case: Case) -> Iterator[Finding]:
    """What about the database harms an outbox."""
    if not case.has_tables:
        return
    with opened(case) as outbox:
        found = [*_holders(outbox), *_pooler(outbox), *_clock(outbox), *_mode(outbox)]
    yield from found or [ok("no old transactions, and its clock agrees")]


def _holders(outbox: Opened) -> Iterator[Finding]:
    from ..stores.outbox.surroundings import holders

    for holder in holders(outbox.database, OLD):
        yield warning(
            f"{holder} keeps PostgreSQL from removing dead rows, so the outbox becomes"
            " slow",
            "end it, and set idle_in_transaction_session_timeout",
        )


def _pooler(outbox: Opened) -> Iterator[Finding]:
    from ..stores.outbox.surroundings import is_pooled, prepares

    if is_pooled(outbox.engine) and prepares(outbox.engine):
        yield warning(
            "a pooler such as PgBouncer gives each transaction another connection, but"
            " the app's connections prepare statements, which are then missing",
            "give create_engine() connect_args={'prepare_threshold': None}, or have"
            " PgBouncer 1.21 or later keep them (max_prepared_statements)",
        )


def _clock(outbox: Opened) -> Iterator[Finding]:
    from ..stores.outbox.surroundings import clock_offset

    offset = clock_offset(outbox.database)
    if abs(offset) > _CLOCKS:
        yield warning(
            f"the database's clock differs from this machine's by {offset:.0f} s, so"
            " events expire, and delayed ones are sent, at the wrong time",
            "synchronise both clocks by NTP",
        )


def _mode(outbox: Opened) -> Iterator[Finding]:
    from ..stores.outbox.surroundings import (
        commits_at_savepoint,
        commits_each_statement,
    )

    if commits_each_statement(outbox.engine):
        yield problem(
            "the driver commits each statement at once, so a transaction with"
            " an event can't be committed",
            "remove autocommit, or with SQLite isolation_level=None, from connect_args"
            " or the URL",
        )
    elif commits_at_savepoint(outbox.engine):
        yield warning(
            "with this engine, SQLite commits when the first savepoint of a transaction"
            " is released, so a later rollback leaves its rows",
            "give create_engine() connect_args={'autocommit': False} (since Python"
            " 3.12), or begin each transaction by a listener, as SQLAlchemy's page on"
            " SQLite shows",
        )
