"""A block that handles a message once."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ..messages.amqp_fields import check_name
from .inbox import Inbox, checked_session


class Once:
    """The block of :meth:`flask_eventcollector.EventCollector.once`."""

    def __init__(
        self, inbox: Inbox, session: Any, message_id: str, consumer: str
    ) -> None:
        self._inbox = inbox
        self._source = session
        self._key = (_checked(consumer, "consumer"), _checked(message_id, "message_id"))
        self._session: Any = None
        self._transaction: object = None
        self._is_first = False

    def __enter__(self) -> bool:
        self._session = checked_session(
            self._current_session(), "use 'async with events.once(…)'"
        )
        return self._add(self._session)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):
            self._take_back(self._session)

    async def __aenter__(self) -> bool:
        self._session = self._current_session()
        if not hasattr(self._session, "run_sync"):
            raise TypeError("'async with' needs an AsyncSession: use 'with'")
        is_first: bool = await self._session.run_sync(self._add)
        return is_first

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):
            await self._session.run_sync(self._take_back)

    def _current_session(self) -> Any:
        source = self._source
        # A sessionmaker, also that of asyncio, whose module needs greenlet.
        if isinstance(source, type) or hasattr(source, "class_"):
            raise TypeError(
                "once() needs the session that does the work, not what makes sessions:"
                " pass a session, or a scoped_session"
            )
        return source() if callable(source) else source

    def _add(self, session: Session) -> bool:
        self._is_first = self._inbox.add(session, *self._key)
        self._transaction = session.get_transaction()
        return self._is_first

    def _take_back(self, session: Session) -> None:
        """Delete the row, in case that somebody goes on and commits all the same."""
        is_same = session.get_transaction() is self._transaction
        if self._is_first and is_same:
            # If this fails, the transaction can only be rolled back.
            with suppress(SQLAlchemyError):
                self._inbox.remove(session, *self._key)


def _checked(name: str, what: str) -> str:
    if not name:
        raise ValueError(f"{what} is empty: without it, a copy can't be recognised")
    return check_name(name, what)
