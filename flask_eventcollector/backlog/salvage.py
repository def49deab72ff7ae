"""Reads the whole rows of a damaged file."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from .journal import SUFFIXES, Journal, is_damage, new_first_page
from .rows import DamagedRow, StoredEvent, read_row

#: So many places in a row that can't be read: there is nothing behind them.
_MOST_DAMAGED = 20_000
#: More than any number: what the file itself says of its last may be damaged.
_LAST_NUMBER = (1 << 63) - 1
#: Where the header says how large the file is, unless two counters differ. See
#: https://www.sqlite.org/fileformat2.html#in_header_database_size
_VERSION_VALID_FOR = slice(92, 96)


def whole_rows(path: Path) -> Iterator[StoredEvent]:
    """The rows of *path* that are what was written, in order.

    The file is not written to. Raises ``sqlite3.Error`` or ``OSError`` for what may
    pass: a file that is locked, a disk that is full.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=path.parent)))
        copy = _copy_with_new_header(path, folder)
        journal = Journal.open(copy)
        stack.callback(journal.close)
        yield from _read_around(journal)


def _copy_with_new_header(path: Path, folder: Path) -> Path:
    """A copy with the first page of a new file, which holds the schema and no row.

    Nothing is as bad as damage there, nothing is as easily mended, and some of it
    passes unnoticed: a file that claims to be shorter than it is.
    """
    copy = folder / "copy"
    for suffix in ("", *SUFFIXES[:1]):
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
    page = bytearray(new_first_page())
    page[_VERSION_VALID_FOR] = bytes(4)
    with copy.open("r+b") as file:
        file.write(page)
    return copy


def _read_around(journal: Journal) -> Iterator[StoredEvent]:
    """The rows that SQLite can read: a range that it can't is halved until it can."""
    damaged = 0
    ranges = [(0, _LAST_NUMBER)]
    while ranges and damaged < _MOST_DAMAGED:
        first, last = ranges.pop()
        try:
            for row in journal.scan(first, last):
                with suppress(DamagedRow):
                    stored = read_row(row)
                    damaged, first = 0, stored.number + 1
                    yield stored
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            if first >= last:
                damaged += 1
                continue
            middle = (first + last) // 2
            ranges += [(middle + 1, last), (first, middle)]
