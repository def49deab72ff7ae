"""Selects the events for a ``retry`` or ``purge``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from flask import current_app

from ..stores.spool.admin.reading import Found, events_in, events_with
from ..stores.spool.folder import EXTENSION, Folder
from .as_text import abbreviated, report_problems
from .exit_codes import Failure


def select(
    folder: Folder, ids: Sequence[str], every: bool, queue: str | None, option: str
) -> list[Found]:
    """The events with *ids*; with *every*, all dead events.

    :param option: the command line option for *every*.
    :raises Failure: an id is unknown.
    """
    if bool(ids) == every:
        raise click.UsageError(f"Give the ids of events, or {option}.")
    if queue and not every:
        raise click.UsageError(f"--queue requires {option}.")
    return _all_dead(folder, queue) if every else with_ids(folder, ids)


def with_ids(folder: Folder, ids: Sequence[str]) -> list[Found]:
    """The events with *ids*.

    :raises Failure: an id is unknown.
    """
    problems: list[str] = []
    found = events_with(folder, list(dict.fromkeys(ids)), problems)
    report_problems(problems)
    unknown = set(ids) - {f.stored.event.id for f in found}
    if unknown:
        raise Failure(
            f"No such event on disk: {abbreviated(sorted(unknown))}. Give ids in"
            " full, as 'flask events list' shows them. An event that it does not"
            " show may have been delivered"
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
    raise Failure(
        f"No such spool file: {name}. Give a name that 'flask events status' shows, or"
        f" the path of a file whose name ends in {EXTENSION}"
    )


def _all_dead(folder: Folder, queue: str | None) -> list[Found]:
    problems: list[str] = []
    found = [*events_in(folder, problems, queue=queue, dead=True)]
    report_problems(problems)
    return found
