"""What people see."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from ..stores.spool.admin.changes import PATIENCE, Changed
from ..stores.spool.admin.draining import Drained
from ..stores.spool.admin.reading import Found, Report, total
from ..stores.spool.folder import Folder
from . import formatting

# The state of the spool.


def show_status(
    app: str, folder: Folder, files: Sequence[Report], aside: Iterable[Path]
) -> None:
    """Each file, and what they hold together."""
    click.echo(f"Spool of {app!r}: {formatting.plain(str(folder.path))}")
    if files:
        _show_files(files)
    else:
        click.echo("Nothing waits.")
    for path in aside:
        click.echo(f"Set aside, since it was damaged: {formatting.plain(path.name)}")


def _show_files(files: Sequence[Report]) -> None:
    rows = [_file_as_row(file) for file in files]
    waiting, dead, oldest_age, size = total(files)
    rows.append(
        [
            "total",
            "",
            str(waiting),
            str(dead),
            formatting.age(oldest_age),
            formatting.size(size),
            f"{len(files)} file{'' if len(files) == 1 else 's'}",
        ]
    )
    heads = ("PROCESS", "IS", "WAITING", "DEAD", "OLDEST", "SIZE", "FILE")
    _write_lines(formatting.table(heads, rows, right=(2, 3, 4, 5)))


def _file_as_row(file: Report) -> list[str]:
    counts = ["?", "?"] if file.problem else [str(file.waiting), str(file.dead)]
    return [
        str(file.owner.process or "?"),
        formatting.life(file.owner.alive),
        *counts,
        formatting.age(file.oldest_age),
        formatting.size(file.bytes),
        file.path.name,
    ]


# Events.


def show_list(found: Sequence[Found]) -> None:
    """One line for each event."""
    rows = [
        [
            event.id,
            f.state,
            formatting.age(formatting.age_of(event.enqueued_at)),
            str(event.target),
        ]
        for f in found
        for event in [f.stored.event]
    ]
    _write_lines(formatting.table(("ID", "STATE", "AGE", "TARGET"), rows, right=[2]))


def show_dead(found: Sequence[Found]) -> None:
    """Each event, and why it is dead."""
    for f in found:
        event = f.stored.event
        age = formatting.age(formatting.age_of(event.enqueued_at))
        click.echo(formatting.plain(f"{event.id}  {event.target}, {age} old"))
        click.echo(f"    {formatting.plain(f.stored.dead or 'no reason is known')}")


def show_details(found: Found, *, payload: bool) -> None:
    """All that is known of one event."""
    event, owner = found.stored.event, found.owner
    age = formatting.age(formatting.age_of(event.enqueued_at))
    about = [
        ("id", event.id),
        ("state", found.state),
        *([] if found.stored.dead is None else [("reason", found.stored.dead or "-")]),
        ("queue", event.target_queue),
        ("exchange", event.exchange or "the default one"),
        ("enqueued", f"{event.enqueued_at:%Y-%m-%d %H:%M:%S} UTC, {age} ago"),
        ("size", formatting.size(len(event.body))),
        ("process", f"{owner.process or '?'}, {formatting.life(owner.alive)}"),
        ("file", str(found.path)),
        *[("header", f"{key}: {value}") for key, value in event.headers.items()],
    ]
    for name, value in about:
        click.echo(formatting.plain(f"{name:10}{value}"))
    if payload:
        text = json.dumps(event.payload, ensure_ascii=False, indent=2)
        click.echo("payload")
        _write_lines(formatting.plain(line) for line in text.splitlines())


# What a command has done.


def show_drained(drained: Drained) -> None:
    """What a flush has delivered, and what is left."""
    parts = [f"{formatting.events(drained.delivered)} delivered"]
    parts += [f"{drained.waiting} left"] * bool(drained.waiting)
    parts += [f"{drained.dead} dead"] * bool(drained.dead)
    click.echo(f"{', '.join(parts)}.")
    if drained.dead:
        click.echo("See 'flask events dead' for why, and 'flask events retry'.")
    if drained.quarantined:
        click.echo(f"{drained.quarantined} damaged file(s) set aside; see the log.")
    if drained.others:
        others = formatting.events(drained.others)
        owners = formatting.count(drained.processes, "living process")
        click.echo(f"{others} more in the files of {owners}, which delivers them.")


def show_changed(what: str, changed: Changed) -> None:
    """What became of a ``"retry"`` or ``"purge"`` in one file."""
    owner = changed.owner
    if changed.done:
        count = formatting.events(len(changed.done))
        if what == "purge":
            click.echo(f"{count} of {owner} dropped.")
        elif owner.alive:
            click.echo(f"{count} sent again by {owner}.")
        else:
            click.echo(
                f"{count} of {owner} to be sent again: by the next worker, or now by"
                " 'flask events flush'."
            )
    if changed.left:
        why = "may be on its way" if what == "purge" else "may have refused it again"
        subject = "it" if what == "purge" else "the broker"
        click.echo(
            f"{owner} has not followed within {PATIENCE:.0f} s ({subject} {why}, or the"
            f" process hangs): {first_of(changed.left)}",
            err=True,
        )


# Anywhere.


def progress(length: int) -> Any:
    """A bar on a terminal, else nothing."""
    if not (length and sys.stderr.isatty()):
        return nullcontext()
    return click.progressbar(
        length=length, label="Delivering", file=sys.stderr, show_pos=True
    )


def complain(problems: Iterable[str]) -> None:
    """Tell, on stderr, what could not be read."""
    for problem in problems:
        click.echo(f"Can't be read: {formatting.plain(problem)}", err=True)


def first_of(ids: Iterable[str]) -> str:
    """Ten *ids*, at most."""
    first = list(itertools.islice(ids, 11))
    return ", ".join([*first[:10], "…"] if len(first) > 10 else first)


def _write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
