"""The command ``tail``."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

import click
from flask.cli import with_appcontext

from ..events import Target
from ..monitoring.history.reader import Follower, History
from ..monitoring.history.records import Line
from ..stores.filter import Filter
from ..stores.spool.admin.reading import Unreadable
from . import as_json, options
from .exit_codes import Exit, end, tell
from .history import line_as_text, problems_of, reading
from .values import seconds

#: Seconds between two looks for new lines.
_LOOK = 0.2


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
    with reading() as history, suppress(KeyboardInterrupt):
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
            click.echo(line.as_json() if for_machines else line_as_text(line))
    sys.stdout.flush()


def _tell_new(history: History, told: list[Unreadable]) -> list[Unreadable]:
    """Name what can't be read and was not *told* yet; returns all that can't."""
    known = {str(problem) for problem in told}
    found = problems_of(history)
    tell([problem for problem in found if str(problem) not in known])
    return found
