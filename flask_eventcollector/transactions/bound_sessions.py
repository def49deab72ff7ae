"""The sessions whose transactions decide about an extension's events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ConfigurationError
from .transaction import Transaction

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

    from ..consuming.inbox import Inbox
    from .sources import Bindable

_MISSING = (
    "bind_session() needs SQLAlchemy 2.0.16 or newer: run"
    " pip install 'SQLAlchemy>=2.0.16'"
)


class BoundOutbox(NamedTuple):
    """The outbox that the transactions of bound sessions write to."""

    table: Table
    #: Finds its engine; ``None``: it is not known in the current context.
    engine: Callable[[], Engine | None]
    #: The engine that was given for it; ``None``: it is that of the sessions.
    given: Engine | None


class BoundSessions:
    """Finds the transaction that an event belongs to."""

    def __init__(self) -> None:
        #: ``None``: transactions do not write their events.
        self.outbox: BoundOutbox | None = None
        #: By what was bound: finds its transactions in the current context.
        self._sources: list[tuple[object, Callable[[], Iterable[Transaction]]]] = []
        self._inbox: Inbox | None = None

    def __bool__(self) -> bool:
        return bool(self._sources)

    def bind(self, session: Bindable) -> None:
        """Bind *session*; see :meth:`flask_eventcollector.EventCollector.bind_session`.

        :raises TypeError: *session* can't be bound.
        :raises ImportError: SQLAlchemy is not installed, or too old.
        """
        # Only those who bind a session have it.
        try:
            from .sources import source_of
        except ImportError as error:
            raise ImportError(_MISSING) from error
        if not any(bound is session for bound, _ in self._sources):
            self._sources.append((session, source_of(session)))

    def bind_outbox(
        self, session: Bindable, table: Table, engine: Engine | None
    ) -> None:
        """Have the transactions of *session* write their events into *table*.

        :raises ConfigurationError: another table is the outbox, or it can't be used
            with *engine*.
        """
        from .sources import engine_of, write_events_of

        if self.outbox is not None and self.outbox.table is not table:
            raise ConfigurationError(
                f"the outbox is the table {self.outbox.table.fullname!r} already: bind"
                " all sessions to it. An app with another one needs its own"
                " EventCollector"
            )
        write_events_of(session)
        find = partial(engine_of, session, table) if engine is None else lambda: engine
        self.outbox = BoundOutbox(table, find, engine)

    def bind_inbox(self, session: Bindable, table: Table) -> None:
        """Let *table*, in the session's database, be the inbox.

        :raises ConfigurationError: another table is.
        """
        from ..consuming.inbox import Inbox

        if self._inbox is not None and self._inbox.table is not table:
            raise ConfigurationError(
                f"the inbox is the table {self._inbox.table.fullname!r} already: bind"
                " one inbox. An app with another one needs its own EventCollector"
            )
        self._inbox = Inbox(session, table)

    def inbox(self) -> Inbox:
        """The inbox.

        :raises ConfigurationError: none is bound.
        """
        if self._inbox is None:
            raise ConfigurationError(
                "no table for handled messages is bound: call"
                " events.bind_session(db.session, inbox=make_inbox_table(db.metadata))"
            )
        return self._inbox

    def current(self) -> Transaction | None:
        """The transaction in progress: of several, the last that has written."""
        if not self._sources:
            return None
        found = [transaction for _, find in self._sources for transaction in find()]
        return max(found, key=_precedence, default=None)


def _precedence(transaction: Transaction) -> tuple[bool, int]:
    return transaction.has_written(), transaction.number
