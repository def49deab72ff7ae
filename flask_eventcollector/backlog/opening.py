"""Finds where the events of an app wait."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..app_state import AppState
from ..errors import ConfigurationError
from ..stores.spool.admin.reading import Unreadable
from ..stores.spool.folder import Folder
from ..stores.spool.strays import from_before
from .backlog import Backlog
from .outbox import OutboxRows


class Inaccessible(Exception):
    """The app's backlog can't be read from here; says why, with the cure."""

    def __init__(
        self, reason: str, unread: Sequence[Unreadable], *, in_memory: bool
    ) -> None:
        super().__init__(reason)
        #: The files or the folder that could not be read.
        self.unread = unread
        #: Whether the events are in the memory of each process.
        self.in_memory = in_memory


def open_backlog(state: AppState) -> Backlog:
    """Where the app's events wait: in its spool, in its outbox, or in both.

    Close it afterwards. Does not connect to a database.

    :raises Inaccessible: the backlog is in memory, and there is no outbox; or the
        folder can't be read.
    """
    bound = state.sessions.outbox
    if bound is None or not state.has_outbox:
        return Backlog(open_spool(state))
    outbox = OutboxRows(state, bound)
    if state.spool_folder() is None:
        return Backlog(None, outbox, strays_of(state))
    return Backlog(open_spool(state), outbox)


def open_spool(state: AppState) -> Folder:
    """The folder of the app's spool, which need not exist yet.

    :raises Inaccessible: the backlog is in memory, or the folder can't be read.
    """
    folder = state.spool_folder()
    if folder is None:
        unread = strays_of(state)
        why = unread[0].reason if unread else _why_memory(state)
        raise Inaccessible(why[0].upper() + why[1:], unread, in_memory=True)
    try:
        folder.files()
    except OSError as error:
        reason = f"{error.strerror}. Run this as the user that runs the app"
        raise Inaccessible(
            f"Can't read the folder {folder.path}: {reason}",
            [Unreadable(folder.path, reason)],
            in_memory=False,
        ) from error
    return folder


def strays_of(state: AppState) -> list[Unreadable]:
    """The app's files from when its backlog was a spool, if it is in memory now."""
    left: list[Path] = state.left_on_disk()
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
