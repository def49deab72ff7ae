"""Gives a command access to the current app's parts."""

from __future__ import annotations

import click
from flask import current_app

from ..app_state import AppState, state_of
from ..config.broker_url import MEMORY
from ..config.settings import choose_broker, choose_spool_name
from ..delivery.delivery import Delivery
from ..errors import ConfigurationError
from ..stores.spool.admin.reading import Unreadable
from ..stores.spool.destination import Destination
from ..stores.spool.folder import Folder
from ..stores.spool.strays import from_before
from .backlog import Backlog
from .exit_codes import Exit, Failure
from .outbox import OutboxRows


def app_state() -> AppState:
    """The extension's state for the current app.

    :raises Failure: the app has no event collector.
    """
    state = state_of(current_app)
    if state is None:
        raise Failure("This app has no EventCollector: call events.init_app(app)")
    return state


def app_name() -> str:
    """The app's name in its spool and its outbox."""
    return choose_spool_name(app_state().config, current_app)


def backlog() -> Backlog:
    """Where the app's events wait: in its spool, in its outbox, or in both.

    :raises Failure: the backlog is in memory, and there is no outbox; or the folder
        can't be read.
    """
    state = app_state()
    bound = state.sessions.outbox
    if bound is None or not state.has_outbox:
        return Backlog(spool_folder())
    outbox = OutboxRows(state, bound)
    if state.spool_folder() is None:
        return Backlog(None, outbox, _strays(state))
    return Backlog(spool_folder(), outbox)


def spool_folder() -> Folder:
    """The folder of the app's spool.

    :raises Failure: the backlog is in memory, or the folder can't be read.
    """
    state = app_state()
    folder = state.spool_folder()
    if folder is None:
        unread = _strays(state)
        why = unread[0].reason if unread else _why_memory(state)
        raise Failure(why[0].upper() + why[1:], Exit.MEMORY, unread)
    try:
        folder.files()
    except OSError as error:
        reason = f"{error.strerror}. Run this as the user that runs the app"
        raise Failure(
            f"Can't read the folder {folder.path}: {reason}",
            unreadable=[Unreadable(folder.path, reason)],
        ) from error
    if not folder.path.exists():
        click.echo(
            f"The folder {folder.path} does not exist: no process of this app has ever"
            " stored an event, or EVENTCOLLECTOR_SPOOL_DIR differs here",
            err=True,
        )
    return folder


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
    return OutboxRows(state, state.sessions.outbox)


def _strays(state: AppState) -> list[Unreadable]:
    """The app's files from when its backlog was a spool, if it is in memory now."""
    left = state.left_on_disk()
    why = from_before(left).text if left else ""
    return [Unreadable(path, why) for path in left]


def _why_memory(state: AppState) -> str:
    if state.config.backlog != "spool" and not _lacks_broker(state):
        return (
            "The backlog is in the memory of each worker, where no other process can"
            " see it: set EVENTCOLLECTOR_BACKLOG to 'spool' to store events on disk,"
            " where these commands find them, or use events.stats() and events.dead()"
            " in a worker"
        )
    if state.config.broker_urls is None:
        return (
            "EVENTCOLLECTOR_BROKER_URL is not set here, and without a broker the"
            " backlog is in memory: run this command with the workers' settings"
        )
    return (
        "Under TESTING the backlog is in memory: set EVENTCOLLECTOR_TESTING_BROKER to"
        " True to use the spool"
    )


def _lacks_broker(state: AppState) -> bool:
    try:
        state.check_broker()
    except ConfigurationError:
        return True
    return False
