"""Selects the events for a ``retry`` or ``purge``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..backlog.backlog import Backlog, Waiting
from ..backlog.outbox import OutboxRows
from ..stores.filter import ALL, Filter
from ..stores.spool.admin.reading import QUARANTINED, Unreadable
from ..stores.spool.folder import EXTENSION, Folder
from .as_text import abbreviated
from .context import app_name
from .exit_codes import Failure
from .formatting import count

if TYPE_CHECKING:
    from ..stores.outbox.admin import Counts

#: In characters: the shortest beginning of an id, as in Git, and a whole one.
SHORTEST_ID, _FULL_ID = 4, 36


def select(
    backlog: Backlog,
    ids: Sequence[str],
    wanted: Filter | None,
    option: str,
    problems: list[Unreadable],
) -> list[Waiting]:
    """The events with *ids*, or the *wanted* ones; ``None``: no condition was given.

    :param option: the command line option that selects without a condition.
    :param problems: gets what can't be read.
    :raises Failure: an id is unknown or ambiguous.
    """
    if bool(ids) == (wanted is not None):
        raise click.UsageError(
            "Give either the ids of events, or conditions: --queue, --reason,"
            f" --older-than, {option}."
        )
    if wanted is not None:
        return [*backlog.events(problems, wanted)]
    return with_ids(backlog, ids, problems)


def any_condition(wanted: Filter) -> Filter | None:
    """*wanted*; ``None``: it has no condition, so it would select every event."""
    return None if wanted == ALL else wanted


def with_ids(
    backlog: Backlog, ids: Sequence[str], problems: list[Unreadable]
) -> list[Waiting]:
    """The events with *ids*, each in full or shortened to an unambiguous beginning.

    :param problems: gets what can't be read.
    :raises Failure: an id is unknown or ambiguous.
    """
    ids = [*dict.fromkeys(_in_full(backlog, id) for id in ids)]
    found = backlog.with_ids(ids, problems)
    unknown = set(ids) - {f.event.id for f in found}
    if unknown:
        unread = [*problems, *backlog.unread()]
        where = "on disk" if backlog.outbox is None else "on disk or in the outbox"
        raise Failure(
            f"No such event {where}: {abbreviated(sorted(unknown))}. Give ids as"
            " 'flask events list' shows them, or at least their first"
            f" {SHORTEST_ID} characters. An event that it does not"
            " show may have been delivered"
            + "".join(f". Can't read {problem}" for problem in unread),
            unreadable=unread,
        )
    return found


def _in_full(backlog: Backlog, id: str) -> str:
    """The id that starts with *id*; *id* itself if it is complete, or unknown."""
    if not SHORTEST_ID <= len(id) < _FULL_ID:
        return id
    return in_full(id, backlog.ids_from(id))


def in_full(id: str, known: Collection[str]) -> str:
    """The one of the *known* ids that start with *id*; *id* itself if there is none.

    :raises Failure: there are several, and none is *id* itself.
    """
    found = sorted(known)
    if len(found) > 1 and id not in found:
        raise Failure(
            f"{id} is ambiguous: {abbreviated(found)}. Give more characters of the id"
        )
    return found[0] if len(found) == 1 else id


def select_files(
    backlog: Backlog, files: Sequence[str], source: str | None
) -> tuple[list[Path], Counts | None]:
    """The spool files with these names or paths; with *source*, those of that app.

    With *source*, also the app's rows in the outbox; ``None``: there are none.

    :raises Failure: there is nothing of these.
    """
    if bool(files) == bool(source):
        raise click.UsageError("Give the names of files, or --from.")
    if source is None:
        return [_file(backlog.folder, name) for name in dict.fromkeys(files)], None
    rows = {} if backlog.outbox is None else _rows_of_others(backlog.outbox)
    paths = [] if backlog.folder is None else _files_of(source, backlog.folder)
    if not (paths or source in rows or source == app_name()):
        where = [] if backlog.folder is None else [_names_in(backlog.folder)]
        where += [_names_among(rows)] * (backlog.outbox is not None)
        raise Failure(f"No events of {source!r} are waiting: {'; '.join(where)}")
    return paths, rows.get(source)


def _rows_of_others(outbox: OutboxRows) -> dict[str, Counts]:
    try:
        return outbox.others()
    except Unreadable as error:
        raise Failure(f"Can't read {error}", unreadable=[error]) from error


def _files_of(app: str, folder: Folder) -> list[Path]:
    """The files of *app* that this app does not adopt by itself."""
    theirs = Folder(folder.path, app, folder.destination)
    if app == folder.name:
        return theirs.other_files()
    return theirs.files() + theirs.other_files()


def _names_in(folder: Folder) -> str:
    """The apps that have spool files there, as text."""
    apps = folder.all_files()
    if not apps:
        return f"there are no spool files at all in {folder.path}"
    named = (f"{name!r} ({count(len(files), 'file')})" for name, files in apps.items())
    return f"in {folder.path} there are spool files of {', '.join(named)}"


def _names_among(rows: Mapping[str, Counts]) -> str:
    """The other apps that have rows in the outbox, as text."""
    if not rows:
        return "in the outbox there are no events of other apps"
    named = (f"{name!r} ({count(sum(n[:4]), 'event')})" for name, n in rows.items())
    return f"in the outbox there are events of {', '.join(named)}"


def _file(folder: Folder | None, name: str) -> Path:
    if folder is None:
        raise Failure(
            "The backlog is in memory, so there are no spool files here: give --from"
            " for events of the outbox, or set EVENTCOLLECTOR_BACKLOG to 'spool'"
        )
    for path in (folder.path / name, Path(name)):
        if path.suffix == EXTENSION and path.is_file():
            return path
        if path in folder.quarantined_files():
            problem = Unreadable(path, QUARANTINED)
            raise Failure(str(problem), unreadable=[problem])
    raise Failure(
        f"No such spool file: {name}. Give a name that 'flask events status' shows, or"
        f" the path of a file whose name ends in {EXTENSION}"
    )
