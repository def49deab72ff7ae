"""The commands ``why``, ``tail`` and ``top``, which read what processes write down."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from flask.cli import with_appcontext

from ..backlog.backlog import Backlog, Waiting
from ..backlog.opening import Inaccessible, open_backlog
from ..backlog.present import not_searched, present_of
from ..backlog.story import Story
from ..events import Target
from ..monitoring.columns import COLUMNS, needed_for, zeros_of
from ..monitoring.history.reader import OTHER_USER, Follower, History
from ..monitoring.history.records import Counts, Line, problems, total
from ..stores.filter import Filter
from ..stores.spool.admin.reading import Unreadable
from . import as_json, as_text, formatting, options
from .context import app_name, app_state
from .exit_codes import Exit, Failure, end, finish, tell
from .selection import SHORTEST_ID, in_full
from .values import seconds

#: Seconds between two looks for new lines, and between two tables.
_LOOK, _REDRAW = 0.2, 1.0

#: What ``top`` does without on a narrow terminal, in this order.
_DISPENSABLE = [
    "discarded",
    "collected",
    "adopted",
    "outboxed",
    "unrouted",
    "delayed",
    "enqueued",
    "confirmed",
    "in_flight",
    "dropped",
]


@click.command("why")
@click.argument("id")
@options.json
@with_appcontext
def why(id: str, for_machines: bool) -> None:
    """Say what has happened to one event, where it is now, and what comes next.

    The first characters of the ID are enough, at least four. What has happened is in
    EVENTCOLLECTOR_HISTORY_DIR, where each process writes it down; without that setting,
    only where the event waits is known. Exits with 3 if the event is not delivered, or
    if something about it can't be read, and with 1 if nothing is known about it.
    """
    if len(id) < SHORTEST_ID:
        raise Failure(f"{id!r} is too short: give at least {SHORTEST_ID} characters")
    problems: list[Unreadable] = []
    story = _story(id, problems)
    if not story:
        tell(problems)
        raise Failure(
            f"Nothing is known about an event {id!r}. {_why_unknown(problems)}",
            unreadable=problems,
        )
    if for_machines:
        unreadable = as_json.unreadable(problems)
        as_json.write(_as_json(story) | {"unreadable": unreadable})
    else:
        _tell(story)
    finish(problems, is_left=not story.is_over)


@click.command("tail")
@options.queue
@click.option(
    "--since",
    metavar="AGE",
    callback=seconds,
    help="Begin with what has happened in that time, for example 90s, 30min or 2h.",
)
@click.option(
    "--for",
    "duration",
    type=click.FloatRange(0, 1e6),
    help="End after that many seconds.",
)
@options.json
@with_appcontext
def tail(
    queue: str | None,
    since: float | None,
    duration: float | None,
    for_machines: bool,
) -> None:
    """Follow what happens to events in all processes on this machine.

    Each process writes it to EVENTCOLLECTOR_HISTORY_DIR once a second. Runs until
    Ctrl-C. With --json, writes one object per line, and a last one with "unreadable" if
    a file or some of its lines can't be read. Then it exits with 3.
    """
    begins_at = math.inf if since is None else time.time() - since
    ends_at = math.inf if duration is None else time.monotonic() + duration
    told = list[Unreadable]()
    with _reading() as history, suppress(KeyboardInterrupt):
        for lines in _followed(history.follow(begins_at), ends_at):
            _write(lines, Filter(queue), for_machines)
            told = _tell_new(history, told)
    if told and for_machines:
        as_json.write_lines([{"unreadable": as_json.unreadable(told)}])
    if told:
        end(Exit.WAITS)


def _followed(follower: Follower, until: float) -> Iterator[list[Line]]:
    """What has happened, a part at a time."""
    yield follower.earlier
    while True:
        is_last = time.monotonic() >= until
        yield follower.new()
        if is_last:
            return
        time.sleep(_LOOK)


def _write(lines: Iterable[Line], wanted: Filter, for_machines: bool) -> None:
    for line in lines:
        if wanted.selects_queue(Target(line.exchange, line.queue)):
            click.echo(line.as_json() if for_machines else _as_text(line))
    sys.stdout.flush()


def _tell_new(history: History, told: list[Unreadable]) -> list[Unreadable]:
    """Name what can't be read and was not *told* yet; returns all that can't."""
    known = {str(problem) for problem in told}
    found = _problems(history)
    tell([problem for problem in found if str(problem) not in known])
    return found


@click.command("top")
@click.option("--once", is_flag=True, help="Show it once, and end.")
@options.json
@with_appcontext
def top(once: bool, for_machines: bool) -> None:
    """Show the counts of all processes on this machine, with their sum.

    Each process writes them to EVENTCOLLECTOR_HISTORY_DIR once a second. On a terminal,
    the table is redrawn once a second until Ctrl-C; elsewhere, and with --json, it is
    shown once. Then, exits with 3 if the counts of a process can't be read.
    """
    with _reading() as history:
        if not (for_machines or once) and sys.stdout.isatty():
            return _redraw(history)
        counts, problems = history.counts(), _problems(history)
    if for_machines:
        unreadable = as_json.unreadable(problems)
        as_json.write(_sums(counts) | {"unreadable": unreadable})
    else:
        click.echo("\n".join(_table(counts)))
    finish(problems)


def _redraw(history: History) -> None:
    with suppress(KeyboardInterrupt):
        while True:
            counts, unread = history.counts(), _problems(history)
            lines = _table(counts, shutil.get_terminal_size(), unread)
            click.clear()
            click.echo("\n".join(lines))
            time.sleep(_REDRAW)


@contextmanager
def _reading() -> Iterator[History]:
    """What the processes write down.

    :raises Failure: they don't, or the folder can't be read, or not any more.
    """
    folder = app_state().config.history_dir
    if folder is None:
        raise Failure(
            "EVENTCOLLECTOR_HISTORY_DIR is not set, so no process writes down what"
            " happens: set it to a folder, for the workers, too"
        )
    history = History(folder, app_name())
    try:
        history.paths_of_lines()
        yield history
    except OSError as error:
        if error.filename != str(folder):
            # What is written to may be closed.
            raise
        raise Failure(
            f"Can't read the folder {folder}: {error.strerror}. No process has written"
            " to it yet, it was removed, or it belongs to another user"
        ) from error


def _no_folder(folder: Path) -> str:
    return f"{folder} does not exist, so no process has written to it yet"


def _problems(history: History) -> list[Unreadable]:
    """What could not be read so far."""
    return [Unreadable(path, why) for path, why in history.problems.items()]


# One event.


def _story(id: str, problems: list[Unreadable]) -> Story[Waiting]:
    """All that is known of the event whose id begins with *id*.

    :param problems: gets what can't be read.
    :raises Failure: there are several such events.
    """
    # First where it waits: it may be delivered before its life is read, which says so.
    places = _places(problems)
    ids = set[str]() if places is None else places.ids_from(id)
    waiting = [] if places is None else places.with_ids([*ids] or [id], problems)
    history, lines = _lives(id, problems)
    ids |= {one for line in lines for one in line.ids if one.startswith(id)}
    id = in_full(id, ids)
    lines = [line for line in lines if id in line.ids]
    copies = (one for one in waiting if one.event.id == id)
    # A copy of it may be in the file of a process that is gone.
    found = min(copies, key=lambda one: one.is_left, default=None)
    if found is None and places is not None:
        problems += not_searched(places)
    return Story(lines, found, present_of(lines, history, places, problems))


def _places(problems: list[Unreadable]) -> Backlog | None:
    """Where events wait; ``None``: in memory, or it can't be read."""
    try:
        places = open_backlog(app_state())
    except Inaccessible as error:
        problems += error.unread
        return None
    click.get_current_context().call_on_close(places.close)
    return places


def _lives(id: str, problems: list[Unreadable]) -> tuple[History | None, list[Line]]:
    """What has happened to the events whose ids begin with *id*."""
    folder = app_state().config.history_dir
    if folder is None:
        return None, []
    history = History(folder, app_name())
    try:
        return history, history.of(id)
    except FileNotFoundError:
        click.echo(f"There is no history: {_no_folder(folder)}", err=True)
        return None, []
    except OSError as error:
        problems.append(Unreadable(folder, f"{error.strerror}: {OTHER_USER}"))
        return None, []
    finally:
        problems += _problems(history)


def _why_unknown(problems: Sequence[Unreadable]) -> str:
    if problems:
        return "It may be in what can't be read"
    folder = app_state().config.history_dir
    if folder is None:
        return "Processes write down what happens if EVENTCOLLECTOR_HISTORY_DIR is set"
    if not folder.exists():
        return f"There is no history, either: {_no_folder(folder)}"
    return "It is older than what the processes have written down, or of another app"


def _as_json(story: Story[Waiting]) -> dict[str, Any]:
    waiting = story.waiting
    return {
        "history": [{**line._asdict(), "ids": len(line.ids)} for line in story.lines],
        "waiting": None if waiting is None else as_json.event(waiting),
        "next": story.next,
        "now": story.trouble or None,
        "lost": story.is_lost,
    }


def _tell(story: Story[Waiting]) -> None:
    for line in story.lines:
        click.echo(_as_text(line, with_ids=False))
    if story.waiting is not None:
        as_text.show_about(story.waiting)
    now = f"; now: {story.trouble}" if story.trouble else ""
    click.echo(f"Next: {formatting.printable(story.next + now)}")


# Lines and tables.


def _as_text(line: Line, *, with_ids: bool = True) -> str:
    target = str(Target(line.exchange, line.queue)) if line.queue else ""
    parts = [
        formatting.moment_of(line.at),
        str(line.pid),
        line.what,
        target,
        *_details(line),
    ]
    if with_ids and line.ids:
        more = f" +{len(line.ids) - 1}" if len(line.ids) > 1 else ""
        parts.append(f"{line.ids[0]}{more}")
    return formatting.printable("  ".join(filter(None, parts)))


def _details(line: Line) -> Iterator[str]:
    if line.attempt:
        yield f"attempt {line.attempt}"
    if line.outcome:
        yield line.outcome
    if line.what in ("confirmed", "unrouted"):
        yield f"after {line.elapsed:.3f} s"
    if line.reason:
        yield line.reason
    if line.where:
        yield f"by {line.where}"


def _sums(counts: Sequence[Counts]) -> dict[str, Any]:
    return {
        "total": {name: total(counts, name) for name in COLUMNS},
        "processes": [{"pid": one.pid, "at": one.at, **one.stats} for one in counts],
    }


def _table(
    counts: Sequence[Counts],
    size: os.terminal_size | None = None,
    unread: Sequence[Unreadable] = (),
) -> list[str]:
    """The lines of ``top``.

    :param size: of the terminal that must hold them. If they are too long, columns are
        left out, those with nothing but zeros first; if too many, the last of a kind.
    """
    moment = formatting.moment_of(time.time())
    number = formatting.count(len(counts), "process")
    width = None if size is None else size.columns
    books, left_out = _books(counts, width)
    texts = [*problems(counts), *(f"Can't read {one}" for one in unread)]
    narrow = f"Too narrow for {formatting.count(left_out, 'more column')}"
    found = [narrow] * bool(left_out)
    found += [formatting.printable(f"! {text}") for text in texts]
    if size is not None:
        books, found = _fitting(books, found, size)
    return [f"{moment}  {number}"[:width], *books, *found]


def _books(counts: Sequence[Counts], width: int | None) -> tuple[list[str], int]:
    """A table that fits into the *width*, and how much it leaves out besides zeros."""
    for columns in _choices(counts):
        books = _books_with(counts, columns)
        if width is None or max(map(len, books)) <= width:
            break
    return books, len(COLUMNS.keys() - zeros_of(counts) - {*columns})


def _choices(counts: Sequence[Counts]) -> Iterator[list[str]]:
    """What columns may be shown: less and less."""
    yield [*needed_for(counts)]
    zeros = zeros_of(counts)
    for count in range(len(_DISPENSABLE) + 1):
        hidden = zeros.union(_DISPENSABLE[:count])
        yield [name for name in COLUMNS if name not in hidden]


def _books_with(counts: Sequence[Counts], columns: Sequence[str]) -> list[str]:
    """The books of each process, and their sum."""
    heads = ["PROCESS", *(COLUMNS[name].upper() for name in columns), "BROKER"]
    rows = [
        [
            str(one.pid),
            *(str(one.stats.get(name, 0)) for name in columns),
            str(one.stats.get("broker", "")),
        ]
        for one in counts
    ]
    rows.append(["total", *(str(total(counts, name)) for name in columns), ""])
    return formatting.table(heads, rows, right=range(1, len(columns) + 1))


def _fitting(
    books: list[str], found: list[str], size: os.terminal_size
) -> tuple[list[str], list[str]]:
    """As much of both as fits into a terminal of this *size*, with the sums."""
    heads, *processes, sums = books
    # The time, the heads and the sums, and a line for the cursor.
    room = size.lines - 4
    found = _first([line[: size.columns] for line in found], room // 2)
    books = [heads, *_first(processes, room - len(found)), sums]
    return [line[: size.columns] for line in books], found


def _first(lines: list[str], most: int) -> list[str]:
    """As many of the *lines*, and one that says how many more there are."""
    if len(lines) <= most:
        return lines
    shown = lines[: max(0, most - 1)]
    return [*shown, f"… and {len(lines) - len(shown)} more"]
