"""Selects the events for a ``retry`` or ``purge``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..stores.spool.admin.reading import (
    ALL,
    QUARANTINED,
    Filter,
    Unreadable,
)
from ..stores.spool.folder import EXTENSION, Folder
from .as_text import abbreviated
from .backlog import Backlog, Waiting
from .exit_codes import Failure
from .formatting import count

#: In characters: the shortest beginning of an id, as in Git, and a whole one.
_SHORTEST_ID, _FULL_ID = 4, 36


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
            f" {_SHORTEST_ID} characters. An event that it does not"
            " show may have been delivered"
            + "".join(f". Can't read {problem}" for problem in unread),
            unreadable=unread,
        )
    return found


def _in_full(backlog: Backlog, id: str) -> str:
    """The id that starts with *id*; *id* itself if it is complete, or unknown."""
    if not _SHORTEST_ID <= len(id) < _FULL_ID:
        return id
    found = sorted(backlog.ids_from(id))
    if len(found) > 1 and id not in found:
        raise Failure(
            f"{id} is ambiguous: {abbreviated(found)}. Give more characters of the id"
        )
    return found[0] if len(found) == 1 else id


def select_files(
    folder: Folder, files: Sequence[str], source: str | None
) -> list[Path]:
    """The spool files with these names or paths; with *source*, those of that app.

    :raises Failure: there is no such file.
    """
    if bool(files) == bool(source):
        raise click.UsageError("Give the names of files, or --from.")
    if source is None:
        return [_file(folder, name) for name in dict.fromkeys(files)]
    theirs = Folder(folder.path, source, folder.destination)
    paths = theirs.other_files()
    if source == folder.name:
        return paths
    paths = theirs.files() + paths
    if not paths:
        raise Failure(
            f"No spool files of {source!r} in {folder.path}: {_names_in(folder)}"
        )
    return paths


def _names_in(folder: Folder) -> str:
    """The apps that have spool files there, as text."""
    apps = folder.all_files()
    if not apps:
        return "there are none at all"
    named = (f"{name!r} ({count(len(files), 'file')})" for name, files in apps.items())
    return f"there are those of {', '.join(named)}"


def _file(folder: Folder, name: str) -> Path:
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
