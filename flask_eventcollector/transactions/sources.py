"""Finds the transactions that the sessions of a ``bind_session()`` have in progress."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Engine, Table
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from ..databases import writing_to
from ..errors import ConfigurationError
from ..messages.wording import type_name
from .session_events import (
    listen,
    listen_for_outbox,
    open_transactions,
    transaction_of,
)
from .transaction import Transaction

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import (
        AsyncSession,
        async_scoped_session,
        async_sessionmaker,
    )

    _Current: TypeAlias = (
        Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]
    )
    _Class: TypeAlias = type[Session] | type[AsyncSession]
    #: What ``bind_session()`` accepts.
    Bindable: TypeAlias = (
        _Current
        | _Class
        | sessionmaker[Any]
        | async_sessionmaker[Any]
        | Callable[[], _Current | None]
    )

_EXPECTED = (
    "a scoped_session, a sessionmaker, a Session or its class, the same of"
    " sqlalchemy.ext.asyncio, or a function without arguments that returns the current"
    " session"
)

#: The module for asyncio, which needs greenlet. Only who uses it has loaded it.
_ASYNCIO = "sqlalchemy.ext.asyncio"
_COUNTERPARTS: dict[type, str] = {
    Session: "AsyncSession",
    scoped_session: "async_scoped_session",
    sessionmaker: "async_sessionmaker",
}


def source_of(session: Any) -> Callable[[], Iterator[Transaction]]:
    """Listen to *session*; returns what finds its transactions in progress.

    :raises TypeError: *session* can't be bound.
    """
    find = _source_of(session)
    listen(_target_of(session))
    return find


def write_events_of(session: Any) -> None:
    """Have the events of the transactions of *session* written in them."""
    listen_for_outbox(_target_of(session))


def engine_of(session: Any, table: Table) -> Engine | None:
    """The engine that *session* uses for *table*.

    ``None``: it is not known in this context.

    :raises ConfigurationError: the session can't commit there.
    """
    try:
        if _is_class(session) or isinstance(session, _kinds(sessionmaker)):
            session = _new(session)
        elif not isinstance(session, _kinds(Session) + _kinds(scoped_session)):
            session = session()
        if isinstance(session, _kinds(scoped_session)):
            session = session()
        if session is None:
            return None
        engine = _sync(session).get_bind(**writing_to(table)).engine
    except (RuntimeError, LookupError, UnboundExecutionError):
        return None
    if engine.dialect.name == "sqlite" and _sync(session).twophase:
        raise ConfigurationError(
            "SQLite has no two-phase commit, so each commit would fail: remove"
            " twophase=True from the session's options"
        )
    return engine


def _new(session: Any) -> Any:
    """A new session of a class, or of a maker; ``None``: it takes more to make one."""
    try:
        return session()
    except TypeError:
        return None


def _source_of(session: Any) -> Callable[[], Iterator[Transaction]]:
    if _is_class(session):
        return partial(_of_class, session)
    if isinstance(session, _kinds(sessionmaker)):
        # Each maker has a class of its own.
        return partial(_of_class, session.class_)
    if isinstance(session, _kinds(Session) + _kinds(scoped_session)):
        return partial(_of_current, lambda: session)
    if _is_function(session):
        return partial(_of_current, session)
    hint = ": pass its session, as in bind_session(db.session)"
    raise TypeError(
        f"bind_session() expects {_EXPECTED}, not {type_name(session)}"
        f"{hint if 'session' in dir(session) else ''}"
    )


def _target_of(session: Any) -> Any:
    """What SQLAlchemy is to call us for: a class of sessions, or one session."""
    if isinstance(session, _kinds(scoped_session)):
        session = session.session_factory
    if isinstance(session, _kinds(sessionmaker)):
        session = session.kw.get("sync_session_class") or session.class_
    if _is_class(session):
        return getattr(session, "sync_session_class", session)
    if isinstance(session, _kinds(Session)):
        return _sync(session)
    # A function may return any session.
    return Session


def _kinds(kind: type) -> tuple[Any, ...]:
    """One of SQLAlchemy's classes, with its counterpart for asyncio."""
    module = sys.modules.get(_ASYNCIO)
    return (kind,) if module is None else (kind, vars(module)[_COUNTERPARTS[kind]])


def _is_class(session: object) -> bool:
    return isinstance(session, type) and issubclass(session, _kinds(Session))


def _sync(session: Any) -> Session:
    found: Session = getattr(session, "sync_session", session)
    return found


def _is_function(value: Any) -> bool:
    """Whether *value* can be called without arguments, and is no class."""
    if isinstance(value, type) or not callable(value):
        return False
    try:
        inspect.signature(value).bind()
    except TypeError:
        return False
    except ValueError:  # Some built-in functions have no signature.
        return True
    return True


def _of_class(kind: _Class) -> Iterator[Transaction]:
    of_asyncio = hasattr(kind, "sync_session_class")
    for session, transaction in open_transactions():
        found = _async_session(session) if of_asyncio else session
        if isinstance(found, kind):
            yield transaction


def _async_session(session: Session) -> object:
    return vars(sys.modules[_ASYNCIO])["async_session"](session)


def _of_current(find: Callable[[], Any]) -> Iterator[Transaction]:
    try:
        session = _session_in(find())
    except (RuntimeError, LookupError):
        # Outside of an app context, or of a context variable's.
        return
    transaction = None if session is None else transaction_of(session)
    if transaction is not None:
        yield transaction


def _session_in(found: Any) -> Session | None:
    """The session in *found*; ``None``: there is none in this context."""
    if isinstance(found, _kinds(scoped_session)):
        return _session_in(found.registry()) if found.registry.has() else None
    if found is None or isinstance(found, _kinds(Session)):
        return None if found is None else _sync(found)
    raise TypeError(
        f"the function given to bind_session() returned {type_name(found)}: it must"
        " return the current session, or None"
    )
