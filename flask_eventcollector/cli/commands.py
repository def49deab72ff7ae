"""The commands of ``flask events``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import click
from flask import current_app
from flask.cli import with_appcontext

from ..stores.spool.admin.changes import change
from ..stores.spool.admin.draining import drain
from ..stores.spool.admin.reading import Found, Unreadable, events_in, reports
from ..stores.spool.control import ControlRequest
from . import as_json, as_text, formatting
from .context import app_state, delivery, spool_folder
from .exit_codes import Exit, Failure, end
from .selection import chosen, with_ids

#: Events that ``list`` and ``dead`` show, unless they are told otherwise.
_LIMIT = 20

#: By name, in the order in which ``--help`` lists them.
COMMANDS: dict[str, click.Command] = {}


def _command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    def register(function: Callable[..., None]) -> click.Command:
        COMMANDS[name] = click.command(name)(with_appcontext(function))
        return COMMANDS[name]

    return register


_json = click.option(
    "--json", "for_machines", is_flag=True, help="Write JSON, for machines."
)
_queue = click.option("--queue", metavar="NAME", help="Only those for this queue.")
_limit = click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=_LIMIT,
    show_default=True,
    help="How many at most; 0: all.",
)


@_command("status")
@_json
def _status(for_machines: bool) -> None:
    """Show each file: whose it is, and what waits in it.

    Exits with 3 if anything waits or is dead, or if a file can't be read.
    """
    folder = spool_folder()
    files, aside = reports(folder), folder.quarantined_files()
    if for_machines:
        as_json.write(as_json.status(current_app.name, folder, files, aside))
    else:
        as_text.show_status(current_app.name, folder, files, aside)
    as_text.complain(file.problem for file in files if file.problem)
    if any(file.waiting or file.dead or file.problem for file in files):
        end(Exit.WAITS)


@_command("list")
@_queue
@_limit
@click.option("--dead", is_flag=True, help="Only those that are dead.")
@_json
def _list(queue: str | None, limit: int, dead: bool, for_machines: bool) -> None:
    """List the events, oldest first.

    With --json, one object a line.
    """
    _show_events(queue, limit, dead, None if for_machines else as_text.show_list)


@_command("dead")
@_queue
@_limit
@_json
def _dead(queue: str | None, limit: int, for_machines: bool) -> None:
    """List the dead events, with the broker's last word on each.

    The broker went on refusing them, so nobody sends them any more. See 'retry' and
    'purge'. With --json, one object a line.
    """
    _show_events(queue, limit, True, None if for_machines else as_text.show_dead)


def _show_events(
    queue: str | None,
    limit: int,
    dead: bool,
    show: Callable[[Sequence[Found]], None] | None,
) -> None:
    """Show what waits, or is *dead*; as JSON without *show*."""
    problems: list[str] = []
    found = events_in(spool_folder(), problems, queue=queue, dead=dead)
    first = itertools.islice(found, limit or None)
    if show is None:
        as_json.write_lines(map(as_json.event, first))
    elif shown := list(first):
        show(shown)
        if limit and next(found, None):
            click.echo(f"The first {limit}; --limit 0 shows all.", err=True)
    else:
        subject = f"Nothing for {formatting.plain(queue)}" if queue else "Nothing"
        click.echo(f"{subject} {'is dead' if dead else 'waits'}.")
    as_text.complain(problems)


@_command("show")
@click.argument("id")
@click.option("--payload", is_flag=True, help="Show the payload, too.")
@_json
def _show(id: str, payload: bool, for_machines: bool) -> None:
    """Show one event: its properties and headers."""
    found = with_ids(spool_folder(), [id])
    if for_machines:
        as_json.write(as_json.details(found[0], payload=payload))
    else:
        as_text.show_details(found[0], payload=payload)


@_command("flush")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 1e6),
    default=60.0,
    show_default=True,
    help="Seconds that it may take.",
)
@_json
def _flush(timeout: float, for_machines: bool) -> None:
    """Deliver, from here, what dead processes have left.

    What living processes have is theirs to deliver, and is only counted. Exits with 3
    if something still waits: the broker is away, or refuses it.
    """
    folder, way = spool_folder(), delivery()
    waiting = sum(file.waiting for file in reports(folder) if not file.owner.alive)
    with as_text.progress(waiting) as bar:
        drained = drain(way, folder, timeout, bar.update if bar else lambda _: None)
    if for_machines:
        as_json.write(as_json.drained(drained))
    else:
        as_text.show_drained(drained)
    if drained.waiting:
        click.echo(f"Not delivered: {formatting.plain(drained.reason)}", err=True)
        end(Exit.WAITS)


@_command("retry")
@click.argument("ids", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that are dead.")
@_queue
@_json
def _retry(
    ids: tuple[str, ...], every: bool, queue: str | None, for_machines: bool
) -> None:
    """Let dead events wait again, those with IDS or --all.

    Exits with 1 if one is unknown or not dead, and then changes nothing.
    """
    found = chosen(spool_folder(), ids, every, queue, "--all")
    dead = [f for f in found if f.stored.dead is not None]
    # One may be in two files, and dead in one of them.
    waiting = {f.stored.event.id for f in found} - {f.stored.event.id for f in dead}
    if waiting:
        raise Failure(
            f"Not dead, so it is sent anyway: {as_text.first_of(sorted(waiting))}"
        )
    _change("retry", dead, for_machines)


@_command("purge")
@click.argument("ids", nargs=-1)
@click.option("--dead", "every", is_flag=True, help="All that are dead.")
@_queue
@click.option("--yes", is_flag=True, help="Don't ask.")
@_json
def _purge(
    ids: tuple[str, ...], every: bool, queue: str | None, yes: bool, for_machines: bool
) -> None:
    """Drop events that wait or are dead, those with IDS or --dead.

    They are gone for good; the app's log and signals tell of it. Exits with 1 if one
    is unknown, and then drops nothing.
    """
    found = chosen(spool_folder(), ids, every, queue, "--dead")
    count = len({f.stored.event.id for f in found})
    if count and not yes:
        click.confirm(
            f"Drop {formatting.events(count)} for good?", abort=True, err=True
        )
    _change("purge", found, for_machines)


def _change(action: str, found: Sequence[Found], for_machines: bool) -> None:
    """Retry or purge *found*, one file after the other."""
    done: set[str] = set()
    left: set[str] = set()
    for path in dict.fromkeys(f.path for f in found):
        ids = dict.fromkeys(f.stored.event.id for f in found if f.path == path)
        try:
            changed = change(
                path, ControlRequest(action, list(ids)), app_state().notify
            )
        except Unreadable as error:
            raise Failure(str(error) or "The events were delivered meanwhile") from None
        done.update(changed.done)
        left.update(changed.left)
        if not for_machines:
            as_text.show_changed(action, changed)
    if for_machines:
        as_json.write({"done": sorted(done - left), "left": sorted(left)})
    elif not found:
        click.echo("Nothing is dead.")
    if left:
        end(Exit.WAITS)
