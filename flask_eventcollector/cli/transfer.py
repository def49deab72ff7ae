"""The commands ``flask events export`` and ``import``."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

import click
from flask.cli import with_appcontext

from ..backlog.backlog import Backlog, LeftAlone, Waiting
from ..stores.filter import ALL, Filter
from ..stores.spool.admin.reading import Unreadable
from ..stores.spool.admin.transferring import (
    Ids,
    Imported,
    InvalidLines,
    NotReplaced,
    complete_file,
    export,
    remove,
)
from . import as_json, formatting, options
from .context import backlog, notifying
from .exit_codes import Exit, Failure, end, finish, tell
from .progress import progress
from .selection import with_ids

#: Stands for stdin and stdout.
_STANDARD = "-"
#: The first characters of an id, as the library makes them.
_AN_ID = re.compile(r"[0-9a-f]{4,8}|[0-9a-f]{8}-[0-9a-f-]{0,27}")


@click.command("export")
@click.argument("file", default=_STANDARD, metavar="[FILE|-]")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--dead", is_flag=True, help="Only dead events.")
@options.queue
@options.reason
@options.older_than
@click.option(
    "--remove",
    "is_move",
    is_flag=True,
    help="Remove the events once FILE is complete and on disk.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@options.json
@with_appcontext
def export_events(
    file: str,
    ids: tuple[str, ...],
    dead: bool,
    queue: str | None,
    reason: str | None,
    older_than: float | None,
    is_move: bool,
    force: bool,
    for_machines: bool,
) -> None:
    """Write events as lines of JSON to FILE, or to stdout.

    All events on disk and in the outbox are meant, or those with IDS, or that meet the
    conditions. FILE has payloads, so only its owner can read it. Exits with 1 and
    removes nothing if FILE can't be written, and with 3 if events can't be read or
    removed.
    """
    if file == _STANDARD and (is_move or for_machines):
        raise click.UsageError("--remove and --json need a FILE, not '-'.")
    places = backlog()
    _check_name(file, places)
    unread: list[Unreadable] = []
    wanted = Filter(queue, dead, reason, older_than)
    found = _selected(places, ids, wanted, unread)
    exported = _export(places, file, found, force)
    kept: set[str] = set()
    written = set(itertools.chain.from_iterable(exported.values()))
    unchanged = _remove(places, exported, kept) if is_move else []
    removed = len(written - kept) if is_move else 0
    alone = LeftAlone() if ids else places.left_alone()
    if for_machines:
        as_json.write(
            {
                "exported": len(written),
                "removed": removed,
                "left": sorted(kept),
                "left_alone": alone.places,
                "unreadable": as_json.unreadable(unread + unchanged),
            }
        )
    else:
        _say_exported(file, len(written), removed, places)
    tell(unread, "Not exported:")
    finish(unchanged, is_left=bool(unread), lead="Not removed:", left_alone=alone)


def _check_name(file: str, places: Backlog) -> None:
    """Check that *file* is not meant to be the id of an event.

    :raises click.UsageError: an event has this id.
    """
    if _AN_ID.fullmatch(file) and places.ids_from(file):
        raise click.UsageError(
            f"{file} is the id of an event: name the FILE before the ids, as in 'flask"
            f" events export FILE {file}', or give '-' for stdout."
        )


def _selected(
    places: Backlog, ids: tuple[str, ...], wanted: Filter, problems: list[Unreadable]
) -> Iterable[Waiting]:
    if not ids:
        return places.events(problems, wanted)
    if wanted != ALL:
        raise click.UsageError("Give either the ids of events, or conditions.")
    return with_ids(places, ids, problems)


def _export(places: Backlog, file: str, found: Iterable[Waiting], force: bool) -> Ids:
    if file == _STANDARD:
        exported = export(found, sys.stdout.buffer, lambda _: None)
        # What can't be written is not exported, and not said to be.
        sys.stdout.buffer.flush()
        return exported
    try:
        with (
            progress(places.status().total, "Exporting") as on_progress,
            complete_file(Path(file), replace=force) as opened,
        ):
            return export(found, opened, on_progress)
    except NotReplaced:
        cure = "give another name" + ", or --force" * Path(file).is_file()
        raise Failure(f"{file} exists: {cure}. Nothing was exported") from None
    except OSError as error:
        raise Failure(
            f"Can't write {file}: {error.strerror}. Nothing was removed: free space, or"
            " give a FILE in another folder"
        ) from error


def _remove(places: Backlog, exported: Ids, kept: set[str]) -> list[Unreadable]:
    count = sum(map(len, exported.values()))
    with notifying() as notify, progress(count, "Removing") as on_progress:
        purge = partial(places.purge, notify=notify, on_progress=on_progress)
        return remove(exported, purge, kept)


def _say_exported(file: str, exported: int, removed: int, places: Backlog) -> None:
    text = f"Exported {formatting.events(exported)}"
    if file != _STANDARD:
        text += f" to {formatting.printable(file)}"
    click.echo(f"{text}.", err=file == _STANDARD)
    if removed:
        click.echo(f"Removed {formatting.events(removed)} from {places.names}.")


@click.command("import")
@click.argument("file", type=click.File("rb"), metavar="FILE|-")
@options.json
@with_appcontext
def import_events(file: IO[bytes], for_machines: bool) -> None:
    """Take in the events that 'export' has written to FILE, or that stdin has.

    They go into the outbox, or into the spool of an app without one. A running worker
    sends them, or the next one, as possible duplicates. What is on disk or in the
    outbox already, by its id, is skipped. Exits with 1 and imports nothing if a line is
    wrong, and with 3 if a file can't be read, which may hold the same events.
    """
    problems: list[Unreadable] = []
    places = backlog()
    try:
        with progress(_size(file), "Importing", formatting.size) as on_progress:
            imported = places.add(file, problems, on_progress)
    except InvalidLines as error:
        _fail(file, error.errors, for_machines)
    except Unreadable as error:
        raise Failure(f"Nothing was imported. {error}", unreadable=[error]) from error
    if for_machines:
        shown = {"imported": imported.events, "skipped": imported.skipped}
        as_json.write(shown | {"unreadable": as_json.unreadable(problems)})
    else:
        _say_imported(imported, places)
    finish(problems)


def _size(file: IO[bytes]) -> int:
    """In bytes; 0 if unknown, as for a pipe."""
    try:
        return os.fstat(file.fileno()).st_size
    except OSError:
        return 0


def _fail(file: IO[bytes], errors: dict[int, str], for_machines: bool) -> NoReturn:
    for number, reason in errors.items():
        text = f"{file.name}, line {number}: {reason}"
        click.echo(formatting.printable(text), err=True)
    click.echo("Nothing was imported.", err=True)
    if for_machines:
        invalid = [{"line": n, "reason": reason} for n, reason in errors.items()]
        as_json.write({"imported": 0, "invalid": invalid})
    end(Exit.FAILED)


def _say_imported(imported: Imported, places: Backlog) -> None:
    text = f"Imported {formatting.events(imported.events)}"
    if imported.skipped:
        text += f"; skipped {imported.skipped} that {places.names} has already"
    click.echo(f"{text}.")
    if imported.events:
        outbox = places.outbox
        is_for_relay = outbox is not None and outbox.needs_relay
        sender = "'flask events relay'" if is_for_relay else "A worker"
        click.echo(f"{sender} sends them, or run 'flask events flush' now.")
