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
#: Bytes of what comes before the first page in a write-ahead log, and before each.
LOG_HEADER, FRAME_HEADER = 32, 24
#: A user that is nobody here.
STRANGER = 12345


def flipped_bit(path: Path, keys: Collection[str]) -> set[str]:
    """A bit of one event, wherever it is in the file."""
    _move_into_file(path)
    return _flip(path, min(keys))


def flipped_bit_in_log(path: Path, keys: Collection[str]) -> set[str]:
    """The same in the write-ahead log, where a killed process has left its events."""
    return _flip(_log_of(path), min(keys))


def cut_off(path: Path, keys: Collection[str]) -> set[str]:
    """The last page of the file."""
    _move_into_file(path)
    content = path.read_bytes()
    path.write_bytes(content[:-PAGE])
    return _without(keys, content[:-PAGE])


def cut_off_log(path: Path, keys: Collection[str]) -> set[str]:
    """The last pages of the write-ahead log."""
    log = _log_of(path)
    content = log.read_bytes()
    pages = (len(content) - LOG_HEADER) // (FRAME_HEADER + PAGE)
    rest = content[: LOG_HEADER + pages // 2 * (FRAME_HEADER + PAGE)]
    log.write_bytes(rest)
    return _without(keys, rest)


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
    flipped_bit_in_log,
    cut_off,
    cut_off_log,
    given_away,
    replaced_by_folder,
    replaced_by_link,
]


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _flip(path: Path, gone: str) -> set[str]:
    content = path.read_bytes()
    damaged = bytearray(gone.encode())
    damaged[0] ^= 1
    path.write_bytes(content.replace(gone.encode(), damaged))
    return {gone}


def _without(keys: Collection[str], rest: bytes) -> set[str]:
    return {key for key in keys if key.encode() not in rest}


def _move_into_file(path: Path) -> None:
    """Move what is in the write-ahead log, as SQLite does from time to time."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
