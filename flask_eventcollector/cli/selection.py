"""Selects the events for a ``retry`` or ``purge``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from flask import current_app

from ..stores.spool.admin.reading import (
    QUARANTINED,
    Found,
    Unreadable,
    events_in,
    events_with,
    quarantined,
)
from ..stores.spool.folder import EXTENSION, Folder
from .as_text import abbreviated
from .exit_codes import Failure


def select(
    folder: Folder,
    ids: Sequence[str],
    every: bool,
    queue: str | None,
    option: str,
    problems: list[Unreadable],
) -> list[Found]:
    """The events with *ids*; with *every*, all dead events.

    :param option: the command line option for *every*.
    :param problems: gets the files that can't be read.
    :raises Failure: an id is unknown.
    """
    if bool(ids) == every:
        raise click.UsageError(f"Give the ids of events, or {option}.")
    if queue and not every:
        raise click.UsageError(f"--queue requires {option}.")
    if every:
        return [*events_in(folder, problems, queue=queue, dead=True)]
    return with_ids(folder, ids, problems)


def with_ids(
    folder: Folder, ids: Sequence[str], problems: list[Unreadable]
) -> list[Found]:
    """The events with *ids*.

    :param problems: gets the files that can't be read.
    :raises Failure: an id is unknown.
    """
    found = events_with(folder, list(dict.fromkeys(ids)), problems)
    unknown = set(ids) - {f.stored.event.id for f in found}
    if unknown:
        unread = [*problems, *quarantined(folder)]
        raise Failure(
            f"No such event on disk: {abbreviated(sorted(unknown))}. Give ids in"
            " full, as 'flask events list' shows them. An event that it does not"
            " show may have been delivered"
            + "".join(f". Can't read {problem}" for problem in unread),
            unreadable=unread,
        )
    return found


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
    return paths if source == current_app.name else theirs.files() + paths


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
