"""Which events a ``retry`` or ``purge`` is about."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..stores.spool.admin.reading import Found, events_in, events_with
from ..stores.spool.folder import Folder
from .as_text import complain, first_of
from .exit_codes import Failure


def chosen(
    folder: Folder, ids: Sequence[str], every: bool, queue: str | None, option: str
) -> list[Found]:
    """The events with *ids*, or with *every* all that are dead.

    :param option: what the user writes for *every*.
    :raises Failure: one is unknown.
    """
    if bool(ids) == every:
        raise click.UsageError(f"Name the ids of events, or write {option}.")
    if queue and not every:
        raise click.UsageError(f"--queue goes with {option}.")
    return _all_dead(folder, queue) if every else with_ids(folder, ids)


def with_ids(folder: Folder, ids: Sequence[str]) -> list[Found]:
    """The events with *ids*. :raises Failure: one is unknown."""
    problems: list[str] = []
    found = events_with(folder, list(dict.fromkeys(ids)), problems)
    complain(problems)
    unknown = set(ids) - {f.stored.event.id for f in found}
    if unknown:
        raise Failure(
            f"No such event waits on disk: {first_of(sorted(unknown))}. Write ids in"
            " full, as 'flask events list' shows them; what it doesn't show may have"
            " been delivered"
        )
    return found


def _all_dead(folder: Folder, queue: str | None) -> list[Found]:
    problems: list[str] = []
    found = [*events_in(folder, problems, queue=queue, dead=True)]
    complain(problems)
    return found
