"""The commands of ``flask events``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import click
from flask.cli import with_appcontext

from ..backlog.backlog import Backlog, LeftAlone, Waiting
from ..stores.filter import Filter
from ..stores.spool.admin.changes import Changed
from ..stores.spool.admin.reading import Gone, Unreadable
from ..stores.spool.control import ControlRequest
from . import as_json, as_text, formatting, options
from .adopting import adopt_events
from .context import app_name, backlog, notifying
from .doctor import doctor
from .exit_codes import Failure, check_answer, confirm, finish
from .flushing import flush, undelivered
from .outbox_table import outbox
from .progress import progress
from .quarantine import quarantine
from .relay import relay
from .seen import purge_seen
from .selection import any_condition, select, with_ids
from .tail import tail
from .top import top
from .topology import topology
from .transfer import export_events, import_events
from .values import queue_name
from .verify import verify
from .why import why

#: How many events ``list`` and ``dead`` show by default.
_LIMIT = 20

#: By name, in the order of ``--help``.
COMMANDS: dict[str, click.Command] = {}


def _command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    def register(function: Callable[..., None]) -> click.Command:
        COMMANDS[name] = click.command(name)(with_appcontext(function))
        return COMMANDS[name]

    return register


_limit = click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=_LIMIT,
    show_default=True,
    help="Show at most this many events; 0 shows all.",
)


@_command("status")
@options.json
def _status(for_machines: bool) -> None:
    """Show each spool file, its process, and its events; and the outbox.

    Files of this app's name whose events are for another broker or virtual host are
    listed apart, as are apps without a process, also those with rows in the outbox's
    table; see 'adopt'. The outbox's rows are free, held by a process that sends them,
    delayed until their next try, or dead.

    Exits with 3 if any event is waiting or dead, if a file or the outbox can't be read,
    or if a file is quarantined. Running processes with another broker don't count.
    """
    app, places = app_name(), backlog()
    status = places.status()
    if for_machines:
        as_json.write(as_json.status(app, places, status))
    else:
        as_text.show_status(app, places, status)
    finish(status.problems, is_left=status.has_events)


@_command("list")
@options.queue
@options.reason
@options.older_than
@click.option("--dead", is_flag=True, help="Only dead events.")
@_limit
@options.json
def _list(
    queue: str | None,
    reason: str | None,
    older_than: float | None,
    dead: bool,
    limit: int,
    for_machines: bool,
) -> None:
    """List the events, oldest first.

    With --json, writes one object per line, and a last one with "unreadable" if a file
    can't be read, or with "left_alone" if a file is for another broker, or of an app
    without a process. Then it exits with 3.
    """
    wanted = Filter(queue, dead, reason, older_than)
    _show_events(wanted, limit, None if for_machines else as_text.show_list)


@_command("dead")
@options.queue
@options.reason
@options.older_than
@_limit
@options.json
def _dead(
    queue: str | None,
    reason: str | None,
    older_than: float | None,
    limit: int,
    for_machines: bool,
) -> None:
    """List the dead events, with the broker's last reason for each.

    The broker kept refusing these events, so they are no longer sent. See 'retry' and
    'purge'. For --json and the exit code see 'list'.
    """
    wanted = Filter(queue, True, reason, older_than)
    _show_events(wanted, limit, None if for_machines else as_text.show_dead)


def _show_events(
    wanted: Filter, limit: int, show: Callable[[Sequence[Waiting]], None] | None
) -> None:
    """List the *wanted* events; as JSON without *show*."""
    problems: list[Unreadable] = []
    places = backlog()
    found = places.events(problems, wanted)
    alone = places.left_alone()
    first = itertools.islice(found, limit or None)
    if show is None:
        as_json.write_lines(map(as_json.event, first))
        if problems:
            as_json.write_lines([{"unreadable": as_json.unreadable(problems)}])
        if alone:
            as_json.write_lines([{"left_alone": alone.places}])
    elif shown := list(first):
        show(shown)
        if limit and next(found, None):
            click.echo(f"Only the first {limit}; --limit 0 shows all.", err=True)
    else:
        as_text.show_none_of(wanted, problems)
    finish(problems, left_alone=alone)


@_command("show")
@click.argument("id")
@click.option("--payload", is_flag=True, help="Also show the payload.")
@options.json
def _show(id: str, payload: bool, for_machines: bool) -> None:
    """Show one event with its properties and headers.

    The first characters of the ID are enough, at least four.
    """
    problems: list[Unreadable] = []
    found = with_ids(backlog(), [id], problems)[0]
    if for_machines:
        shown = as_json.details(found, payload=payload)
        as_json.write(shown | {"unreadable": as_json.unreadable(problems)})
    else:
        as_text.show_details(found, payload=payload)
    finish(problems)


@_command("flush")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 1e6),
    default=60.0,
    show_default=True,
    help="The longest time to wait, in seconds.",
)
@options.json
def _flush(timeout: float, for_machines: bool) -> None:
    """Deliver the events that ended processes have left.

    Those are in the spool's files, or rows of the outbox that no process holds. Events
    of running processes are only counted; those processes deliver them, unless they
    don't respond. Exits with 3 if any of the others is still waiting or dead, or if a
    file or the outbox can't be read, is for another broker, or of an app without a
    process.
    """
    places = backlog()
    with progress(undelivered(places), "Delivering") as on_progress:
        drained = flush(places, timeout, on_progress)
    alone = places.left_alone()
    if for_machines:
        as_json.write(as_json.drained(drained, alone))
    else:
        as_text.show_drained(drained)
    if drained.reason:
        click.echo(f"Not delivered: {formatting.printable(drained.reason)}", err=True)
    finish(
        drained.unreadable,
        is_left=bool(drained.waiting or drained.dead),
        lead="Not delivered:",
        left_alone=alone,
    )


@_command("retry")
@click.argument("ids", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Retry all dead events.")
@click.option(
    "--to",
    "target",
    metavar="QUEUE",
    callback=queue_name,
    help="Send them to this queue instead; waiting events are taken, too.",
)
@options.queue
@options.reason
@options.older_than
@options.yes
@options.json
def _retry(
    ids: tuple[str, ...],
    every: bool,
    target: str | None,
    queue: str | None,
    reason: str | None,
    older_than: float | None,
    yes: bool,
    for_machines: bool,
) -> None:
    """Retry dead events: those with IDS, --all, or all that meet the conditions.

    With --to, waiting events are taken, too, unless --all is given. Without IDS, shows
    how many for each target, and asks; then --json requires --yes.

    Exits with 1 and changes nothing if an event is unknown, or not dead without --to,
    and with 3 if a file can't be read or changed, or without IDS, if a file is for
    another broker, or of an app without a process.
    """
    problems: list[Unreadable] = []
    is_agreed = yes or bool(ids)
    check_answer(is_agreed, for_machines)
    places = backlog()
    wanted = any_condition(Filter(queue, every, reason, older_than))
    if target is None:
        request = ControlRequest("retry", [])
        found = _select_dead(places, ids, wanted, problems)
    else:
        request = ControlRequest("redirect", [], target)
        found = select(places, ids, wanted, "--all", problems)
    if found and not is_agreed:
        where = "again" if target is None else f"to {formatting.printable(target)}"
        _confirm_change("Send", found, where)
    _change(places, request, found, problems, for_machines, is_all=not ids)


def _select_dead(
    places: Backlog,
    ids: tuple[str, ...],
    wanted: Filter | None,
    problems: list[Unreadable],
) -> list[Waiting]:
    """The events with *ids*, or the *wanted* ones that are dead.

    :raises Failure: one of *ids* is unknown or ambiguous, or its event is not dead.
    """
    if wanted is not None:
        wanted = wanted._replace(dead=True)
    found = select(places, ids, wanted, "--all", problems)
    dead = [f for f in found if f.state == "dead"]
    # An event may be in two places, and dead in only one of them.
    waiting = {f.event.id for f in found} - {f.event.id for f in dead}
    if waiting:
        raise Failure(
            "Not dead, so already being retried:"
            f" {as_text.abbreviated(sorted(waiting))}"
        )
    return dead


@_command("purge")
@click.argument("ids", nargs=-1)
@click.option("--dead", "every", is_flag=True, help="Only dead events.")
@options.queue
@options.reason
@options.older_than
@options.yes
@options.json
def _purge(
    ids: tuple[str, ...],
    every: bool,
    queue: str | None,
    reason: str | None,
    older_than: float | None,
    yes: bool,
    for_machines: bool,
) -> None:
    """Drop events for good: those with IDS, or all that meet the conditions.

    Waiting and dead events are meant, unless --dead is given. Shows how many for each
    target, and asks. --json requires --yes.

    The app's log and signals report the drop. Exits with 1 and drops nothing if an
    event is unknown, and with 3 as 'retry' does.
    """
    problems: list[Unreadable] = []
    check_answer(yes, for_machines)
    places = backlog()
    wanted = any_condition(Filter(queue, every, reason, older_than))
    found = select(places, ids, wanted, "--dead", problems)
    if found and not yes:
        _confirm_change("Drop", found, "for good")
    request = ControlRequest("purge", [])
    _change(places, request, found, problems, for_machines, is_all=not ids)


def _confirm_change(do: str, found: Sequence[Waiting], how: str) -> None:
    """Show the *found* events, ask, and go on only if the answer is yes."""
    as_text.preview(found)
    count = len({f.event.id for f in found})
    confirm(f"{do} {formatting.events(count)} {how}?")


COMMANDS |= {
    "why": why,
    "tail": tail,
    "top": top,
    "adopt": adopt_events,
    "export": export_events,
    "import": import_events,
    "quarantine": quarantine,
    "outbox": outbox,
    "relay": relay,
    "topology": topology,
    "doctor": doctor,
    "purge-seen": purge_seen,
    "verify": verify,
}


def _change(
    places: Backlog,
    request: ControlRequest,
    found: Sequence[Waiting],
    problems: list[Unreadable],
    for_machines: bool,
    *,
    is_all: bool,
) -> None:
    """Apply *request* to the *found* events, one place after the other.

    :param is_all: whether these are all that meet some conditions, so that others may
        do so that are left alone.
    """
    alone = places.left_alone() if is_all else LeftAlone()
    changes: dict[str, Changed] = {}
    try:
        left = _apply(places, request, found, problems, changes)
    finally:
        # Also after Ctrl-C: what was changed by then.
        if not for_machines:
            as_text.show_changed(request.action, changes.values())
    if for_machines:
        done = {id for changed in changes.values() for id in changed.done}
        shown = {"done": sorted(done - left), "left": sorted(left)}
        shown |= {"left_alone": alone.places}
        as_json.write(shown | {"unreadable": as_json.unreadable(problems)})
    elif not found:
        as_text.show_none("selected", None, problems)
    finish(problems, lead="Not changed:", left_alone=alone)


#: What a bar says.
_DOING = {"retry": "Retrying", "redirect": "Redirecting", "purge": "Dropping"}


def _apply(
    places: Backlog,
    request: ControlRequest,
    found: Sequence[Waiting],
    problems: list[Unreadable],
    changes: dict[str, Changed],
) -> set[str]:
    """Apply *request* to the *found* events; returns the ids of those that are left.

    :param changes: gets what was changed, by place.
    :raises Failure: all of them have been delivered in the meantime.
    """
    left: set[str] = set()
    doing = _DOING[request.action]
    with notifying() as notify, progress(len(found), doing) as on_progress:
        for place in dict.fromkeys(f.place for f in found):
            there = [f for f in found if f.place == place]
            try:
                changed = places.change(request, there, notify, on_progress)
            except Gone:
                continue
            except Unreadable as error:
                problems.append(error)
                left.update(f.event.id for f in there)
            else:
                changes[place] = changed
    if found and not (changes or left):
        raise Failure("The events have been delivered in the meantime")
    for place, changed in changes.items():
        if changed.left:
            left.update(changed.left)
            reason = as_text.why_left(request.action, changed)
            problems.append(Unreadable(place, reason))
    return left
