"""The commands of ``flask events quarantine``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from flask.cli import with_appcontext

from ..stores.spool.admin.quarantined import Quarantined, quarantined_files, remove
from ..stores.spool.admin.reading import Unreadable
from . import as_json, formatting, options
from .context import spool_folder
from .exit_codes import Failure, check_answer, confirm, finish

_ADVICE = (
    "The intact events of a damaged file were copied or delivered before it was"
    " quarantined. Keep it to examine the damaged ones, or run 'flask events quarantine"
    " remove NAME'."
    " Another user's file was not read: give it to the app's user, and remove"
    " '.quarantined' from its name."
)


@click.group("quarantine")
def quarantine() -> None:
    """List or remove the files that no process uses again."""


@quarantine.command("list")
@options.json
@with_appcontext
def _list(for_machines: bool) -> None:
    """Show each quarantined file, why it is one, and its readable events.

    Exits with 0: 'status' exits with 3 as long as there is one.
    """
    files = quarantined_files(spool_folder())
    if for_machines:
        as_json.write([_as_json(file) for file in files])
        return
    if not files:
        click.echo("No files are quarantined.")
        return
    _show(files)
    click.echo(_ADVICE)


@quarantine.command("remove")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "every", is_flag=True, help="Remove all quarantined files.")
@options.yes
@options.json
@with_appcontext
def _remove(names: tuple[str, ...], every: bool, yes: bool, for_machines: bool) -> None:
    """Delete quarantined files for good: those with NAMES, or --all.

    Shows them first, and asks. --json requires --yes. Exits with 1 and deletes nothing
    if a name is unknown.
    """
    if bool(names) == every:
        raise click.UsageError("Give the names of quarantined files, or --all.")
    check_answer(yes, for_machines)
    files = _selected(quarantined_files(spool_folder()), names)
    if files and not yes:
        _show(files, err=True)
        count = formatting.count(len(files), "file")
        confirm(f"Delete {count} for good?")
    removed, problems = _remove_all(files)
    if for_machines:
        paths = [str(file.path) for file in removed]
        as_json.write({"removed": paths, "unreadable": as_json.unreadable(problems)})
    else:
        click.echo(f"Removed {formatting.count(len(removed), 'file')}.")
    finish(problems, lead="Not removed:")


def _selected(files: Sequence[Quarantined], names: Sequence[str]) -> list[Quarantined]:
    """The files with these *names* or paths; all without *names*."""
    known = {name for file in files for name in (file.path.name, str(file.path))}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Failure(
            f"No such quarantined file: {', '.join(unknown)}. Give names that 'flask"
            " events quarantine list' shows"
        )
    return [f for f in files if not names or {f.path.name, str(f.path)} & set(names)]


def _remove_all(
    files: Sequence[Quarantined],
) -> tuple[list[Quarantined], list[Unreadable]]:
    removed: list[Quarantined] = []
    problems: list[Unreadable] = []
    for file in files:
        try:
            remove(file.path)
            removed.append(file)
        except OSError as error:
            problems.append(Unreadable(file.path, str(error)))
    return removed, problems


def _show(files: Sequence[Quarantined], *, err: bool = False) -> None:
    for file in files:
        count = "events that can't be read"
        if file.readable is not None:
            count = f"{formatting.count(file.readable, 'readable event')}"
        path, reason = map(formatting.printable, (str(file.path), file.reason))
        click.echo(f"{path}: {count}, {formatting.age(file.age)} old", err=err)
        click.echo(f"    {reason}", err=err)


def _as_json(file: Quarantined) -> dict[str, Any]:
    return {
        "path": str(file.path),
        "reason": file.reason,
        "readable": file.readable,
        "age": round(file.age, 3),
        "advice": _ADVICE,
    }
