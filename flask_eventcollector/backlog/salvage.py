"""Reads the whole rows of a damaged file."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from .journal import PAGE_SIZE, SUFFIXES, Journal, is_damage
from .rows import DamagedRow, StoredEvent, read_row

#: So many places in a row that can't be read: there is nothing behind them.
_MOST_DAMAGED = 20_000
_LAST_NUMBER = 1 << 62
#: Where the header says how large the file is, unless two counters differ. See
#: https://www.sqlite.org/fileformat2.html#in_header_database_size
_VERSION_VALID_FOR = slice(92, 96)


def whole_rows(path: Path) -> Iterator[StoredEvent]:
    """The rows of *path* that are what was written, in order.

    The file is not written to. Raises ``sqlite3.Error`` or ``OSError`` only for what
    may pass: a file that is locked, a disk that is full.
    """
    with ExitStack() as stack:
        journal = _open(path, stack)
        if journal is not None:
            for row in _read_around(journal):
                with suppress(DamagedRow):
                    yield read_row(row)


def _open(path: Path, stack: ExitStack) -> Journal | None:
    for attempt in (path, None):
        try:
            journal = Journal.open(attempt or _with_new_header(path, stack))
            stack.callback(journal.close)
            journal.is_empty()
            return journal
        except sqlite3.Error as error:
            # "No such table" is damage, too: the header has lost the schema.
            if not is_damage(error) and "no such table" not in str(error):
                raise
    return None


def _with_new_header(path: Path, stack: ExitStack) -> Path:
    """A copy with a new file's first page, which holds the schema and no row."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent))
    copy = Path(folder, "copy")
    for suffix in ("", *SUFFIXES[:1]):
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
    page = bytearray(_new_first_page(Path(folder)))
    page[_VERSION_VALID_FOR] = bytes(4)
    with copy.open("r+b") as file:
        file.write(page)
    return copy


def _new_first_page(folder: Path) -> bytes:
    """The first page of a new file."""
    new = folder / "new"
    Journal.create(new).close()
    return new.read_bytes()[:PAGE_SIZE]


def _read_around(journal: Journal) -> Iterator[tuple[Any, ...]]:
    """The rows that SQLite can read: a range that it can't is halved until it can."""
    damaged = 0
    ranges = [(0, _last_number(journal))]
    while ranges and damaged < _MOST_DAMAGED:
        first, last = ranges.pop()
        try:
            for row in journal.scan(first, last):
                damaged = 0
                yield row
                first = max(first, row[0] + 1)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            if first >= last:
                damaged += 1
                continue
            middle = (first + last) // 2
            ranges += [(middle + 1, last), (first, middle)]


def _last_number(journal: Journal) -> int:
    try:
        return journal.last_number()
    except sqlite3.Error as error:
        if is_damage(error):
            return _LAST_NUMBER
        raise
