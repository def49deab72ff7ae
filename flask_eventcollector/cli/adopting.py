"""The command ``flask events adopt``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from flask.cli import with_appcontext

from ..backlog.outbox import OutboxRows
from ..stores.spool.admin.adopting import Adopted, adopt
from ..stores.spool.admin.reading import QUARANTINED, Report, Unreadable, report
from ..stores.spool.folder import Folder
from . import as_json, as_text, formatting, options
from .context import backlog, destination
from .exit_codes import check_answer, confirm, finish
from .selection import select_files

if TYPE_CHECKING:
    from ..stores.outbox.admin import Counts


@click.command("adopt")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--from", "source", metavar="APP", help="All files of the app APP.")
@options.yes
@options.json
@with_appcontext
def adopt_events(
    files: tuple[str, ...], source: str | None, yes: bool, for_machines: bool
) -> None:
    """Make events of other spool files this app's own.

    For an app whose broker, name or EVENTCOLLECTOR_SPOOL_DIR has changed: processes
    adopt only what their own app has left for their own broker and virtual host. The
    events are moved into a file that the app's workers send to its present broker. FILE
    is a name that 'status' shows, or a path. With --from and this app's own name, these
    are its files for other brokers. --json requires --yes.

    --from also takes the rows of the app APP in the outbox's table. Exits with 3 if a
    file or a row is in use, or can't be read.
    """
    check_answer(yes, for_machines)
    places = backlog()
    paths, rows = select_files(places, files, source)
    found = [file for path in paths if (file := report(path)) is not None]
    if (found or rows) and not yes:
        _confirm_adoption(found, source, rows)
    problems: list[Unreadable] = []
    adopted = [*_adopt_files(places.folder, paths, problems)]
    count = 0 if rows is None else _adopt_rows(places.outbox, source, problems)
    if for_machines:
        as_json.write(as_json.adopted(adopted, count, problems))
    else:
        outbox = places.outbox
        needs_relay = outbox is not None and outbox.needs_relay
        as_text.show_adopted(adopted, count, needs_relay=needs_relay)
    finish(problems, lead="Not adopted:")


def _adopt_files(
    folder: Folder | None, paths: Sequence[Path], problems: list[Unreadable]
) -> Iterator[Adopted]:
    if folder is None:
        return
    for path in paths:
        try:
            moved = adopt(path, folder)
        except Unreadable as error:
            problems.append(error)
        else:
            yield moved
            if moved.quarantined:
                problems.append(Unreadable(moved.quarantined, QUARANTINED))


def _adopt_rows(
    outbox: OutboxRows | None, source: str | None, problems: list[Unreadable]
) -> int:
    if outbox is None or source is None:
        return 0
    try:
        count = outbox.adopt(source)
        left = outbox.others().get(source)
    except Unreadable as error:
        problems.append(error)
        return 0
    if left is not None:
        held = f"processes of {source!r} hold {as_text.rows_of(left)}"
        problems.append(Unreadable(outbox.name, f"{held}: stop them first"))
    return count


def _confirm_adoption(
    files: Sequence[Report], source: str | None, rows: Counts | None
) -> None:
    for file in files:
        click.echo(as_text.describe(file), err=True)
    if rows is not None:
        text = f"outbox: {as_text.rows_of(rows)} of {source!r}"
        click.echo(formatting.printable(text), err=True)
    confirm(f"Send them to {destination()}?")
