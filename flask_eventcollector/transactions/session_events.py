"""What SQLAlchemy calls while a session's transaction runs.

See https://docs.sqlalchemy.org/en/20/orm/session_events.html. No hook raises an
:exc:`Exception`, which would end the application's own transaction, or emits SQL.
"""

from __future__ import annotations

import functools
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Concatenate, NamedTuple, ParamSpec

from sqlalchemy import Table, event
from sqlalchemy.engine import Connection, ExecutionContext
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction

from ..databases import begins_at_savepoint, is_autocommit, writing_to
from ..delivery.process import current_process
from ..delivery.records import Kind, log_failure, log_record
from ..errors import ConfigurationError
from .transaction import Transaction

P = ParamSpec("P")

#: Where a session has our transaction, and a connection those that use it. Also marks
#: what is listened to.
_KEY = "_eventcollector_transaction"
#: Marks what writes the events of its transactions.
_OUTBOX_KEY = f"{_KEY}_outbox"

#: Statements whose text shows that they write.
_WRITING = re.compile(
    r"""(?: \s | \( | /\*.*?\*/ | (?:--|\#)[^\n]*\n )*
    (?: (?:insert|update|delete|merge|replace|copy|truncate)\b
      | (?:call|exec|execute)\b | load\s+(?:data|xml)\b | do\b\s*(?:['$]|language\b)
      | (?:with|explain)\b .* \b(?:
            (?:insert|replace)\s+(?:or\s+\w+\s+)?into | delete\s+from | merge\s+into
          # Not FOR UPDATE: what follows is a table, perhaps with another name, and SET.
          | update\s+(?:or\s+\w+\s+|only\s+)?
            (?:[^\s"`]|"[^"]*"|`[^`]*`)+(?:\s+(?:as\s+)?\S+)?\s+set )\b )""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


class _Begun(NamedTuple):
    """A transaction that was begun in this context, after an outer one."""

    session: weakref.ref[Session]
    transaction: Transaction
    outer: _Begun | None


class _User(NamedTuple):
    """A session that uses a connection, with its transaction."""

    session: weakref.ref[Session]
    transaction: Transaction


_begun: ContextVar[_Begun | None] = ContextVar("eventcollector_begun", default=None)


def transaction_of(session: Session) -> Transaction | None:
    """The transaction that *session* has in progress; ``None``: it has none."""
    transaction = _tracked(session)
    if transaction is None or not transaction.is_in_progress:
        return None
    return transaction


def open_transactions() -> Iterator[tuple[Session, Transaction]]:
    """The sessions with a transaction that was begun in this context, latest first."""
    begun = _open(_begun.get())
    while begun is not None:
        session = begun.session()
        if session is not None and begun.transaction.is_in_progress:
            yield session, begun.transaction
        begun = _open(begun.outer)


def _open(begun: _Begun | None) -> _Begun | None:
    while begun is not None and (begun.transaction.is_over or begun.session() is None):
        begun = begun.outer
    return begun


def listen(target: Any) -> None:
    """Have the hooks below called for *target*: a class of sessions, or one session."""
    # Before the application's own: what these enqueue after the end belongs to none.
    _listen(target, _KEY, _HOOKS, insert=True)


def listen_for_outbox(target: Any) -> None:
    """Have the events of the transactions of *target* written in them."""
    _listen(target, _OUTBOX_KEY, _OUTBOX_HOOKS)


#: By process: a forked child must not wait for a thread that only its parent has.
_listening: dict[object, threading.RLock] = {}


def _listen(
    target: Any,
    key: str,
    hooks: Mapping[str, Callable[..., None]],
    *,
    insert: bool = False,
) -> None:
    """Have *hooks* called for *target* from now on, once, whichever thread is first.

    Noted on it: ``event.contains()`` takes another class for it that is gone, but had
    the same ``id()``.
    """
    if key in vars(target):
        return
    with _listening.setdefault(current_process(), threading.RLock()):
        if key not in vars(target):
            for name, hook in hooks.items():
                # An object that was added as it was is gone by then; its state is not.
                raw = {"raw": True} if name == "pending_to_transient" else {}
                event.listen(target, name, hook, insert=insert, **raw)
            # Last: other threads do not wait for what is noted.
            setattr(target, key, True)


def _is_new(target: object, key: str) -> bool:
    """Whether this is the first call for *target*."""
    if key in vars(target):
        return False
    setattr(target, key, True)
    return True


def _tracked(session: Session) -> Transaction | None:
    """Our transaction for the one that *session* has; ``None``: it has none."""
    root = session.get_transaction()
    if root is None:
        return None
    known: Transaction | None = session.info.get(_KEY)
    if known is None or not known.is_of(root):
        reference = weakref.ref(session)
        known = Transaction(
            root,
            functools.partial(_has_unflushed, reference),
            writes_events=hasattr(session, _OUTBOX_KEY),
        )
        session.info[_KEY] = known
        _begun.set(_Begun(reference, known, _open(_begun.get())))
    return known


def _has_unflushed(reference: weakref.ref[Session]) -> bool:
    session = reference()
    if session is None:
        return False
    try:
        changed = session.new or session.deleted
        return bool(changed) or any(map(session.is_modified, session.dirty))
    except Exception as error:
        # Another thread may use the session, or a model has its own idea of equality.
        log_failure(Kind.SESSION_HOOK_FAILED, error, hook="is_modified")
        return False


def _users(connection: Connection) -> list[_User]:
    """The sessions that use *connection*, latest last."""
    found: list[_User] = vars(connection).get(_KEY, [])
    return found


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


# The hooks of the outbox. What they raise makes the commit fail, since an event that
# could not be written would be lost.


def before_commit(session: Session) -> None:
    transaction = _tracked(session)
    if transaction is None:
        return
    if session.in_nested_transaction():
        # A savepoint is released; or the root is committed, and releases them first.
        transaction.prepare_to_write(
            functools.partial(_connection, session, transaction)
        )
        return
    # The application may enqueue events when objects are flushed.
    session.flush()
    transaction.write_events(functools.partial(_connection, session, transaction))
    transaction.is_sealed = True


def commit(connection: Connection, _id: object = None) -> None:
    # What was enqueued since: by a root that still had savepoints, or by functions of
    # the application that are called at its commit.
    for session, transaction in _with_outbox(connection):
        transaction.write_events(functools.partial(_if_its, session, connection))


def release_savepoint(connection: Connection, *_: object) -> None:
    # The commit of a session that has joined an outer transaction is one. What it
    # releases before may still be rolled back with a savepoint around it.
    for session, transaction in _with_outbox(connection):
        if transaction.is_sealed and not session.in_nested_transaction():
            transaction.write_events(functools.partial(_if_its, session, connection))


def _with_outbox(connection: Connection) -> Iterator[tuple[Session, Transaction]]:
    """Those that use *connection*, and whose commit has begun to write events."""
    for user in _users(connection):
        session, transaction = user.session(), user.transaction
        if transaction.has_outbox and not transaction.is_over and session is not None:
            yield session, transaction


def after_flush(session: Session, _context: object) -> None:
    # Other functions may have changed something in the meantime. But what a savepoint
    # flushes when it is released may still be rolled back, with one around it.
    transaction: Transaction | None = session.info.get(_KEY)
    if transaction is None or not transaction.is_sealed:
        return
    if not session.in_nested_transaction():
        transaction.write_events(functools.partial(_connection, session, transaction))


def _connection(session: Session, transaction: Transaction, table: Table) -> Connection:
    """The session's connection to the database of *table*."""
    try:
        connection = session.connection(bind_arguments=writing_to(table))
    except UnboundExecutionError as error:
        raise ConfigurationError(
            f"The session has no database for the outbox's table {table.fullname}: pass"
            " make_outbox_table() the metadata of the database whose transactions the"
            " events belong to, or give the session a bind for the table"
        ) from error
    if not session.twophase:
        _warn_of_others(connection, transaction.changed)
    return connection


def _if_its(session: Session, connection: Connection, table: Table) -> Any:
    """*connection*, if *session* uses it for *table*, and ``None`` otherwise."""
    bind = session.get_bind(**writing_to(table))
    return connection if bind in (connection, connection.engine) else None


def _warn_of_others(outbox: Connection, changed: Iterable[Connection]) -> None:
    """Warn of what was changed, and does not commit together with its events."""
    for connection in changed:
        if connection is not outbox and _is_new(connection.engine, f"{_KEY}_elsewhere"):
            places = (
                c.engine.url.set(username=None, password=None, query={})
                for c in (outbox, connection)
            )
            written, state = map(str, places)
            log_record(Kind.OUTBOX_ELSEWHERE, outbox=written, database=state)


# The other hooks.


def _hook(
    function: Callable[Concatenate[Any, P], None],
) -> Callable[Concatenate[Any, P], None]:
    @functools.wraps(function)
    def run(sender: Any, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(sender, *args, **kwargs)
        except Exception as error:
            log_failure(Kind.SESSION_HOOK_FAILED, error, hook=function.__name__)

    return run


@_hook
def after_transaction_create(session: Session, began: SessionTransaction) -> None:
    transaction = _tracked(session)
    if transaction is not None and began.nested:
        transaction.begin_savepoint(began)


@_hook
def after_begin(
    session: Session, began: SessionTransaction, connection: Connection
) -> None:
    transaction = _tracked(session)
    if transaction is None or is_autocommit(connection):
        # Without a transaction, the database takes nothing back.
        return
    # A connection may outlive the transaction, and serve several sessions.
    users: list[_User] = vars(connection).setdefault(_KEY, [])
    users[:] = [
        user
        for user in users
        if not user.transaction.is_over and user.transaction is not transaction
    ]
    users.append(_User(weakref.ref(session), transaction))
    _listen(connection.engine, _KEY, _ENGINE_HOOKS)


@_hook
def before_cursor_execute(
    connection: Connection,
    cursor: object,
    statement: str,
    parameters: object,
    context: ExecutionContext | None,
    executemany: bool,
) -> None:
    # Before, so that a statement that fails counts, too.
    users = _users(connection)
    if users and _writes(statement, context):
        found = (user.transaction for user in reversed(users))
        current = next((t for t in found if not t.is_over), None)
        if current is not None:
            current.note_write(connection)


@_hook
def savepoint(connection: Connection, _name: object) -> None:
    if not _users(connection) or not begins_at_savepoint(connection):
        return
    if _is_new(connection.engine, f"{_KEY}_savepoint"):
        log_record(Kind.SAVEPOINT_COMMITS)


def _writes(statement: str, context: ExecutionContext | None) -> bool:
    is_change = context is not None and (context.isinsert or context.isupdate)
    return is_change or _WRITING.match(statement) is not None


@_hook
def pending_to_transient(session: Session, state: object) -> None:
    # It was added, and is thrown out unflushed: by a rollback, or by a close.
    transaction = _tracked(session)
    if transaction is not None:
        transaction.note_write()


@_hook
def after_commit(session: Session) -> None:
    # Also called when a savepoint is released.
    transaction, level = _tracked(session), _innermost(session)
    if transaction is not None and level is not None:
        transaction.note_commit(level)


@_hook
def after_rollback(session: Session) -> None:
    # Not called by a close.
    transaction, level = _tracked(session), _innermost(session)
    if transaction is not None and level is not None:
        transaction.note_rollback(level)


@_hook
def after_transaction_end(session: Session, ended: SessionTransaction) -> None:
    # Always called, also for the parts of a flush, which are unknown here.
    transaction: Transaction | None = session.info.get(_KEY)
    if transaction is not None:
        if ended.parent is None:
            del session.info[_KEY]
        transaction.end(ended)


_HOOKS: dict[str, Callable[..., None]] = {
    hook.__name__: hook
    for hook in (
        after_transaction_create,
        after_begin,
        pending_to_transient,
        after_commit,
        after_rollback,
        after_transaction_end,
    )
}

_ENGINE_HOOKS: dict[str, Callable[..., None]] = {
    "before_cursor_execute": before_cursor_execute,
    "commit": commit,
    "prepare_twophase": commit,
    "release_savepoint": release_savepoint,
    "savepoint": savepoint,
}

_OUTBOX_HOOKS: dict[str, Callable[..., None]] = {
    "before_commit": before_commit,
    "after_flush": after_flush,
}
