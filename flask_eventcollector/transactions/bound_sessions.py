"""The sessions whose transactions decide about an extension's events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .transaction import Transaction

if TYPE_CHECKING:
    from .sources import Bindable

_MISSING = (
    "bind_session() needs SQLAlchemy 2.0 or newer: run"
    " pip install 'Flask-EventCollector[sqlalchemy]'"
)


class BoundSessions:
    """Finds the transaction that an event belongs to."""

    def __init__(self) -> None:
        #: By what was bound: finds its transactions in the current context.
        self._sources: list[tuple[object, Callable[[], Iterable[Transaction]]]] = []

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

    def current(self) -> Transaction | None:
        """The transaction in progress: of several, the last that has written."""
        if not self._sources:
            return None
        found = [transaction for _, find in self._sources for transaction in find()]
        return max(found, key=_precedence, default=None)


def _precedence(transaction: Transaction) -> tuple[bool, int]:
    return transaction.has_written(), transaction.number
