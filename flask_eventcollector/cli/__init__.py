"""The commands of ``flask events``."""

from __future__ import annotations

import enum
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import click
from flask import current_app
from flask.cli import with_appcontext

from ..app_state import AppState
from ..backlog.folder import Folder
from ..backlog.remote import Wish
from ..broker_url import MEMORY
from ..config import choose_backlog, choose_broker, choose_spool_dir
from ..errors import ConfigurationError
from . import words
from .changing import PATIENCE, Changed, change
from .draining import Drained, drain
from .reading import (
    Found,
    Report,
    Unreadable,
    events_in,
    events_with,
    reports,
)

#: Events that ``list`` and ``dead`` show, unless they are told otherwise.
_LIMIT = 20


class Exit(enum.IntEnum):
    """What the exit code says, beside click's own: 0 done, 2 not understood."""

    FAILED = 1
    #: Something waits, is dead, or did not follow.
    WAITS = 3
    #: The backlog is in memory.
    MEMORY = 4


class Failure(click.ClickException):
    """What went wrong, and the cure."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(words.plain(message))
        self.code = code

    def show(self, file: Any = None) -> None:
        super().show(file)
        # click has one code for all of its class.
        raise SystemExit(int(self.code))


#: By name, in the order in which ``--help`` lists them.
COMMANDS: dict[str, click.Command] = {}


def _command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    def register(function: Callable[..., None]) -> click.Command:
        COMMANDS[name] = click.command(name)(with_appcontext(function))
        return COMMANDS[name]

    return register


_json = click.option(
    "--json", "as_json", is_flag=True, help="Write JSON, for machines."
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
def _status(as_json: bool) -> None:
    """Show each file: whose it is, and what waits in it.

    Exits with 3 if anything waits or is dead, or if a file can't be read.
    """
    folder = _folder()
    files, aside = reports(folder), folder.files_set_aside()
    if as_json:
        _write_json(
            {
                "app": current_app.name,
                "folder": str(folder.path),
                "files": [_file_as_dict(file) for file in files],
                "set_aside": [str(path) for path in aside],
                "total": _totals(files),
            }
        )
    else:
        click.echo(f"Spool of {current_app.name!r}: {words.plain(str(folder.path))}")
        _show_files(folder, files)
        for path in aside:
            click.echo(f"Set aside, since it was damaged: {words.plain(path.name)}")
    _complain(file.trouble for file in files if file.trouble)
    if any(file.waiting or file.dead or file.trouble for file in files):
        _exit(Exit.WAITS)


@_command("list")
@_queue
@_limit
@click.option("--dead", is_flag=True, help="Only those that are dead.")
@_json
def _list(queue: str | None, limit: int, dead: bool, as_json: bool) -> None:
    """List the events, oldest first.

    With --json, one object a line.
    """
    _show_events(queue, limit, dead, as_json, _show_list)


@_command("dead")
@_queue
@_limit
@_json
def _dead(queue: str | None, limit: int, as_json: bool) -> None:
    """List the dead events, with the broker's last word on each.

    The broker went on refusing them, so nobody sends them any more. See 'retry' and
    'purge'. With --json, one object a line.
    """
    _show_events(queue, limit, True, as_json, _show_dead)


@_command("show")
@click.argument("id")
@click.option("--payload", is_flag=True, help="Show the payload, too.")
@_json
def _show(id: str, payload: bool, as_json: bool) -> None:
    """Show one event: its properties and headers."""
    troubles: list[str] = []
    found = events_with(_folder(), [id], troubles)
    _complain(troubles)
    if not found:
        raise Failure(_unknown([id]))
    about = _event_as_dict(found[0]) | _details_as_dict(found[0], payload=payload)
    if as_json:
        _write_json(about)
    else:
        _show_details(about)


@_command("flush")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 1e6),
    default=60.0,
    show_default=True,
    help="Seconds that it may take.",
)
@_json
def _flush(timeout: float, as_json: bool) -> None:
    """Deliver, from here, what dead processes have left.

    What living processes have is theirs to deliver, and is only counted. Exits with 3
    if something still waits: the broker is away, or refuses it.
    """
    folder, state = _folder(), _state()
    _check_broker(state)
    waiting = sum(file.waiting for file in reports(folder) if not file.owner.alive)
    with _progress(waiting) as bar:
        drained = drain(
            state.delivery(), folder, timeout, bar.update if bar else lambda _: None
        )
    if as_json:
        _write_json({k: v for k, v in vars(drained).items() if k != "reason"})
    else:
        _show_drained(drained)
    if drained.waiting:
        click.echo(f"Not delivered: {words.plain(drained.reason)}", err=True)
        _exit(Exit.WAITS)


@_command("retry")
@click.argument("ids", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that are dead.")
@_queue
@_json
def _retry(ids: tuple[str, ...], every: bool, queue: str | None, as_json: bool) -> None:
    """Let dead events wait again, those with IDS or --all.

    Exits with 1 if one is unknown or not dead, and then changes nothing.
    """
    folder = _folder()
    chosen = _chosen(folder, ids, every, queue, "--all")
    waiting = {f.stored.event.id for f in chosen if f.stored.dead is None}
    dead = [f for f in chosen if f.stored.dead is not None]
    waiting -= {f.stored.event.id for f in dead}
    if waiting:
        raise Failure(f"Not dead, so it is sent anyway: {_ids(waiting)}")
    _change_all("retry", dead, as_json)


@_command("purge")
@click.argument("ids", nargs=-1)
@click.option("--dead", "every", is_flag=True, help="All that are dead.")
@_queue
@click.option("--yes", is_flag=True, help="Don't ask.")
@_json
def _purge(
    ids: tuple[str, ...], every: bool, queue: str | None, yes: bool, as_json: bool
) -> None:
    """Drop events that wait or are dead, those with IDS or --dead.

    They are gone for good; the app's log and signals tell of it. Exits with 1 if one
    is unknown, and then drops nothing.
    """
    folder = _folder()
    chosen = _chosen(folder, ids, every, queue, "--dead")
    count = len({f.stored.event.id for f in chosen})
    if count and not yes:
        click.confirm(f"Drop {words.events(count)} for good?", abort=True, err=True)
    _change_all("purge", chosen, as_json)


# Which app, and which spool.


def _state() -> AppState:
    state = current_app.extensions["eventcollector"]
    assert isinstance(state, AppState)  # noqa: S101 - for the type checker
    return state


def _folder() -> Folder:
    config = _state().config
    if choose_backlog(config, current_app) != "spool":
        raise Failure(_why_memory(config.backlog), Exit.MEMORY)
    folder = Folder(choose_spool_dir(config, current_app), current_app.name)
    if not folder.path.exists():
        click.echo(
            f"The folder {folder.path} is not there: no process of this app has"
            " ever had to keep an event, or EVENTCOLLECTOR_SPOOL_DIR is another here",
            err=True,
        )
    return folder


def _why_memory(backlog: str) -> str:
    if backlog == "spool":
        return (
            "Under TESTING the backlog is in memory: set"
            " EVENTCOLLECTOR_TESTING_BROKER to True to use the spool"
        )
    return (
        "The backlog is in memory, in each worker, and no other process can see it:"
        " set EVENTCOLLECTOR_BACKLOG to 'spool' to keep events on disk, where these"
        " commands find them; in a worker, events.stats() and events.dead() tell"
    )


def _check_broker(state: AppState) -> None:
    try:
        urls = choose_broker(state.config, current_app)
    except ConfigurationError as error:
        raise Failure(str(error)) from error
    if urls == (MEMORY,) and not current_app.testing:
        raise Failure(
            "The broker is memory://, which ends with this command, and the events with"
            " it: set EVENTCOLLECTOR_BROKER_URL to the broker that the workers use"
        )


# To retry, and to purge.


def _chosen(
    folder: Folder, ids: Sequence[str], every: bool, queue: str | None, option: str
) -> list[Found]:
    if bool(ids) == every:
        raise click.UsageError(f"Name the ids of events, or {option}.")
    if queue and not every:
        raise click.UsageError(f"--queue goes with {option}.")
    troubles: list[str] = []
    if every:
        found = [*events_in(folder, troubles, queue=queue, dead=True)]
    else:
        found = events_with(folder, list(dict.fromkeys(ids)), troubles)
    _complain(troubles)
    unknown = set(ids) - {f.stored.event.id for f in found}
    if unknown:
        raise Failure(_unknown(sorted(unknown)))
    return found


def _change_all(what: str, found: Sequence[Found], as_json: bool) -> None:
    done: set[str] = set()
    left: set[str] = set()
    for path in dict.fromkeys(f.path for f in found):
        ids = [f.stored.event.id for f in found if f.path == path]
        try:
            changed = change(path, Wish(what, list(dict.fromkeys(ids))), _state().tell)
        except Unreadable as error:
            raise Failure(str(error) or "The events were delivered meanwhile") from None
        done.update(changed.done)
        left.update(changed.left)
        if not as_json:
            _show_changed(what, changed)
    if as_json:
        _write_json({"done": sorted(done - left), "left": sorted(left)})
    elif not found:
        click.echo("Nothing is dead.")
    if left:
        _exit(Exit.WAITS)


def _show_changed(what: str, changed: Changed) -> None:
    owner = changed.owner
    if changed.done:
        count = words.events(len(changed.done))
        if what == "purge":
            click.echo(f"{count} dropped, of {owner}.")
        elif owner.alive:
            click.echo(f"{count} sent again by {owner}.")
        else:
            click.echo(
                f"{count} of {owner}: the next worker sends them, or 'flask events"
                " flush' now."
            )
    if changed.left:
        why = "may be on its way" if what == "purge" else "may have refused it again"
        subject = "it" if what == "purge" else "the broker"
        click.echo(
            f"{owner} has not followed within {PATIENCE:.0f} s ({subject} {why}, or the"
            f" process hangs): {_ids(changed.left)}",
            err=True,
        )


def _unknown(ids: Sequence[str]) -> str:
    return (
        f"No such event waits on disk: {_ids(ids)}. It may have been delivered; see"
        " 'flask events list'"
    )


def _ids(ids: Iterable[str]) -> str:
    first = list(itertools.islice(ids, 11))
    return ", ".join([*first[:10], "…"] if len(first) > 10 else first)


# What people see.


def _show_files(folder: Folder, files: Sequence[Report]) -> None:
    if not files:
        click.echo("Nothing waits.")
        return
    rows = [_file_as_row(file) for file in files]
    total = _totals(files)
    rows.append(
        [
            "total",
            "",
            str(total["waiting"]),
            str(total["dead"]),
            words.age(total["oldest_age"]),
            words.size(total["bytes"]),
            f"{len(files)} file{'' if len(files) == 1 else 's'}",
        ]
    )
    heads = ("PROCESS", "IS", "WAITING", "DEAD", "OLDEST", "SIZE", "FILE")
    _write_lines(words.table(heads, rows, right=(2, 3, 4, 5)))


def _file_as_row(file: Report) -> list[str]:
    counts = ["?", "?"] if file.trouble else [str(file.waiting), str(file.dead)]
    return [
        str(file.owner.process or "?"),
        "alive" if file.owner.alive else "gone",
        *counts,
        words.age(file.oldest_age),
        words.size(file.bytes),
        file.path.name,
    ]


def _show_events(
    queue: str | None,
    limit: int,
    dead: bool,
    as_json: bool,
    show: Callable[[Sequence[Found]], None],
) -> None:
    troubles: list[str] = []
    found = events_in(_folder(), troubles, queue=queue, dead=dead)
    if as_json:
        for item in itertools.islice(found, limit or None):
            click.echo(json.dumps(_event_as_dict(item)))
    else:
        shown = list(itertools.islice(found, limit or None))
        show(shown) if shown else click.echo(
            "Nothing is dead." if dead else "Nothing waits."
        )
        if limit and next(found, None):
            click.echo(f"The first {limit}; --limit 0 shows all.", err=True)
    _complain(troubles)


def _show_list(found: Sequence[Found]) -> None:
    rows = [
        [
            event.id,
            f.state,
            words.age(words.age_of(event.enqueued_at)),
            str(event.target),
        ]
        for f in found
        for event in [f.stored.event]
    ]
    _write_lines(words.table(("ID", "STATE", "AGE", "TARGET"), rows, right=[2]))


def _show_dead(found: Sequence[Found]) -> None:
    for f in found:
        event = f.stored.event
        age = words.age(words.age_of(event.enqueued_at))
        click.echo(words.plain(f"{event.id}  {event.target}, {age} old"))
        click.echo(f"    {words.plain(f.stored.dead or 'no reason is known')}")


def _show_details(about: Mapping[str, Any]) -> None:
    for key, value in about.items():
        if key not in ("headers", "payload"):
            click.echo(f"{key.replace('_', ' '):13}{words.plain(_as_text(value))}")
    for key, value in about["headers"].items():
        click.echo(words.plain(f"header       {key}: {_as_text(value)}"))
    if "payload" in about:
        text = json.dumps(about["payload"], ensure_ascii=False, indent=2)
        click.echo("payload")
        _write_lines(words.plain(line) for line in text.splitlines())


def _as_text(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def _show_drained(drained: Drained) -> None:
    parts = [f"{words.events(drained.delivered)} delivered"]
    parts += [f"{drained.waiting} left"] * bool(drained.waiting)
    parts += [f"{drained.dead} dead"] * bool(drained.dead)
    click.echo(f"{', '.join(parts)}.")
    if drained.dead:
        click.echo("See 'flask events dead' for why, and 'flask events retry'.")
    if drained.set_aside:
        click.echo(f"{drained.set_aside} damaged file(s) set aside; see the log.")
    if drained.others:
        click.echo(
            f"{words.events(drained.others)} more in the files of {drained.processes}"
            " living process(es), which are theirs to deliver."
        )


def _progress(length: int) -> Any:
    """A bar on a terminal, else nothing."""
    if not (length and sys.stderr.isatty()):
        return nullcontext()
    return click.progressbar(
        length=length, label="Delivering", file=sys.stderr, show_pos=True
    )


# What machines read.


def _file_as_dict(file: Report) -> dict[str, Any]:
    unread = bool(file.trouble)
    return {
        "path": str(file.path),
        "process": file.owner.process or None,
        "alive": file.owner.alive,
        "waiting": None if unread else file.waiting,
        "dead": None if unread else file.dead,
        "oldest_age": file.oldest_age,
        "bytes": file.bytes,
        "trouble": file.trouble,
    }


def _totals(files: Sequence[Report]) -> dict[str, Any]:
    ages = [file.oldest_age for file in files if file.oldest_age is not None]
    return {
        "waiting": sum(file.waiting for file in files),
        "dead": sum(file.dead for file in files),
        "oldest_age": max(ages, default=None),
        "bytes": sum(file.bytes for file in files),
    }


def _event_as_dict(found: Found) -> dict[str, Any]:
    event = found.stored.event
    return {
        "id": event.id,
        "state": found.state,
        "queue": event.target_queue,
        "exchange": event.exchange,
        "enqueued_at": event.enqueued_at.isoformat(),
        "age": round(words.age_of(event.enqueued_at), 3),
        "reason": found.stored.dead,
        "body_bytes": len(event.body),
        "process": found.owner.process or None,
        "alive": found.owner.alive,
    }


def _details_as_dict(found: Found, *, payload: bool) -> dict[str, Any]:
    event = found.stored.event
    about: dict[str, Any] = {"path": str(found.path), "headers": dict(event.headers)}
    if payload:
        about["payload"] = event.payload
    return about


def _write_json(value: Any) -> None:
    # Headers hold what JSON doesn't: bytes, times, decimals.
    click.echo(json.dumps(value, indent=2, default=str))


def _write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _complain(troubles: Iterable[str]) -> None:
    for trouble in troubles:
        click.echo(f"Can't be read: {words.plain(trouble)}", err=True)


def _exit(code: Exit) -> NoReturn:
    raise SystemExit(int(code))
