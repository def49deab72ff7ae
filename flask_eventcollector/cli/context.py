"""Where a command works: the current app, its spool and its broker."""

from __future__ import annotations

import click
from flask import current_app

from ..app_state import AppState, state_of
from ..config.broker_url import MEMORY
from ..config.settings import choose_broker
from ..delivery.delivery import Delivery
from ..errors import ConfigurationError
from ..stores.spool.folder import Folder
from .exit_codes import Exit, Failure


def app_state() -> AppState:
    """What the extension keeps for the current app."""
    state = state_of(current_app)
    if state is None:
        raise Failure("This app has no EventCollector: call events.init_app(app)")
    return state


def spool_folder() -> Folder:
    """The folder of the app's spool. :raises Failure: the backlog is in memory."""
    state = app_state()
    folder = state.spool_folder()
    if folder is None:
        raise Failure(_why_memory(state), Exit.MEMORY)
    if not folder.path.exists():
        click.echo(
            f"The folder {folder.path} is not there: no process of this app has"
            " ever had to keep an event, or EVENTCOLLECTOR_SPOOL_DIR is another here",
            err=True,
        )
    return folder


def delivery() -> Delivery:
    """This process's way to the broker. :raises Failure: there is no real broker."""
    state = app_state()
    try:
        urls = choose_broker(state.config, current_app)
    except ConfigurationError as error:
        raise Failure(str(error)) from error
    if urls == (MEMORY,) and not current_app.testing:
        raise Failure(
            "The broker is memory://, which ends with this command, and the events with"
            " it: set EVENTCOLLECTOR_BROKER_URL to the broker that the workers use"
        )
    return state.delivery()


def _why_memory(state: AppState) -> str:
    if state.config.backlog != "spool":
        return (
            "The backlog is in memory, in each worker, and no other process can see it:"
            " set EVENTCOLLECTOR_BACKLOG to 'spool' to keep events on disk, where these"
            " commands find them; in a worker, events.stats() and events.dead() tell"
        )
    if state.config.broker_urls is None:
        return (
            "EVENTCOLLECTOR_BROKER_URL is not set here, and without a broker the"
            " backlog is in memory: give this command the settings that the workers"
            " have"
        )
    return (
        "Under TESTING the backlog is in memory: set EVENTCOLLECTOR_TESTING_BROKER to"
        " True to use the spool"
    )
