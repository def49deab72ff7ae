"""Gives a command access to the current app's parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask import current_app

from ..app_state import AppState, state_of
from ..backlog.backlog import Backlog
from ..backlog.opening import Inaccessible, open_backlog, open_spool
from ..backlog.outbox import OutboxRows
from ..config.broker_url import MEMORY
from ..config.settings import choose_broker, choose_spool_name
from ..delivery.delivery import Delivery
from ..delivery.entries import Notice
from ..errors import ConfigurationError
from ..stores.spool.admin.changes import Notify
from ..stores.spool.destination import Destination
from ..stores.spool.folder import Folder
from .exit_codes import Exit, Failure


def app_state() -> AppState:
    """The extension's state for the current app.

    :raises Failure: the app has no event collector.
    """
    state = state_of(current_app)
    if state is None:
        raise Failure("This app has no EventCollector: call events.init_app(app)")
    return state


@contextmanager
def notifying() -> Iterator[Notify]:
    """Takes what must be reported, and reports it when the block ends.

    Log lines would break a bar, and each part of a change would have one.
    """
    state, notices = app_state(), list[Notice]()
    try:
        yield notices.extend
    finally:
        state.notify(notices)


def app_name() -> str:
    """The app's name in its spool and its outbox."""
    return choose_spool_name(app_state().config, current_app)


def backlog() -> Backlog:
    """Where the app's events wait: in its spool, in its outbox, or in both.

    It is closed with the command.

    :raises Failure: the backlog is in memory, and there is no outbox; or the folder
        can't be read.
    """
    with _failing():
        found = open_backlog(app_state())
    if found.folder is not None:
        _tell_missing(found.folder)
    click.get_current_context().call_on_close(found.close)
    return found


def spool_folder() -> Folder:
    """The folder of the app's spool.

    :raises Failure: the backlog is in memory, or the folder can't be read.
    """
    with _failing():
        folder = open_spool(app_state())
    _tell_missing(folder)
    return folder


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except Inaccessible as error:
        code = Exit.MEMORY if error.in_memory else Exit.FAILED
        raise Failure(str(error), code, error.unread) from error


def _tell_missing(folder: Folder) -> None:
    if not folder.path.exists():
        click.echo(
            f"The folder {folder.path} does not exist: no process of this app has ever"
            " stored an event, or EVENTCOLLECTOR_SPOOL_DIR differs here",
            err=True,
        )


def destination() -> Destination:
    """Where the app's events go: its broker and virtual host.

    :raises Failure: there is no broker.
    """
    try:
        return Destination.of(choose_broker(app_state().config, current_app))
    except ConfigurationError as error:
        raise Failure(str(error)) from error


def delivery() -> Delivery:
    """This process's delivery.

    :raises Failure: there is no real broker.
    """
    state = app_state()
    check_broker(state)
    return state.delivery()


def check_broker(state: AppState) -> None:
    """Check that events can be sent from here.

    :raises Failure: there is no real broker.
    """
    try:
        urls = choose_broker(state.config, current_app)
    except ConfigurationError as error:
        raise Failure(str(error)) from error
    if urls == (MEMORY,) and not current_app.testing:
        raise Failure(
            "The broker is memory://, so events would be lost when this command ends:"
            " set EVENTCOLLECTOR_BROKER_URL to the broker that the workers use"
        )


def outbox_rows() -> OutboxRows:
    """The rows of the app's outbox.

    :raises Failure: the app has no outbox.
    """
    state = app_state()
    if state.sessions.outbox is None:
        raise Failure(
            "This app has no outbox: call events.bind_session(db.session,"
            " outbox=make_outbox_table(db.metadata))"
        )
    rows = OutboxRows(state, state.sessions.outbox)
    click.get_current_context().call_on_close(rows.close)
    return rows
