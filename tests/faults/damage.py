"""What may befall a file of the spool between two processes.

Each function does it to the file at *path*, which has the events *keys*, and returns
those that are gone with it. They are found in the bytes, not by the library.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

Damage = Callable[[Path, Collection[str]], set[str]]

#: Bytes of a page, which is what a file consists of.
PAGE = 4096
#: A user that is nobody here.
STRANGER = 12345


def flipped_bit(path: Path, keys: Collection[str]) -> set[str]:
    """A bit of one event."""
    _move_into_file(path)
    gone = min(keys)
    content = bytearray(path.read_bytes())
    content[content.index(gone.encode())] ^= 1
    path.write_bytes(content)
    return {gone}


def cut_off(path: Path, keys: Collection[str]) -> set[str]:
    """The last page."""
    _move_into_file(path)
    content = path.read_bytes()
    path.write_bytes(content[:-PAGE])
    return {key for key in keys if key.encode() in content[-PAGE:]}


def given_away(path: Path, keys: Collection[str]) -> set[str]:
    """It belongs to another user, so nobody may trust what is in it."""
    os.chown(path, STRANGER, -1)
    return set(keys)


def replaced_by_folder(path: Path, keys: Collection[str]) -> set[str]:
    """It is no file at all."""
    path.unlink()
    path.mkdir()
    return set(keys)


def replaced_by_link(path: Path, keys: Collection[str]) -> set[str]:
    """It leads to a file that is elsewhere, which nobody may follow."""
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    return set(keys)


DAMAGES: list[Damage] = [
    flipped_bit,
    cut_off,
    given_away,
    replaced_by_folder,
    replaced_by_link,
]


def _move_into_file(path: Path) -> None:
    """Move what is in the write-ahead log, as SQLite does from time to time."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
