"""Selects the events for a ``retry`` or ``purge``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..stores.spool.admin.reading import Found, events_in, events_with
from ..stores.spool.folder import Folder
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


def _all_dead(folder: Folder, queue: str | None) -> list[Found]:
    problems: list[str] = []
    found = [*events_in(folder, problems, queue=queue, dead=True)]
    report_problems(problems)
    return found
