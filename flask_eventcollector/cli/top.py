"""The command ``top``."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import click
from flask.cli import with_appcontext

from ..monitoring.columns import COLUMNS, needed_for, zeros_of
from ..monitoring.history.reader import History
from ..monitoring.history.records import Counts, problems, total
from ..stores.spool.admin.reading import Unreadable
from . import as_json, formatting, options
from .exit_codes import finish
from .history import problems_of, reading

#: Seconds between two tables.
_REDRAW = 1.0

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
    with reading() as history:
        if not (for_machines or once) and sys.stdout.isatty():
            return _redraw(history)
        counts, problems = history.counts(), problems_of(history)
    if for_machines:
        unreadable = as_json.unreadable(problems)
        as_json.write(_sums(counts) | {"unreadable": unreadable})
    else:
        click.echo("\n".join(_table(counts)))
    finish(problems)


def _redraw(history: History) -> None:
    with suppress(KeyboardInterrupt):
        while True:
            counts, unread = history.counts(), problems_of(history)
            lines = _table(counts, shutil.get_terminal_size(), unread)
            click.clear()
            click.echo("\n".join(lines))
            time.sleep(_REDRAW)


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
