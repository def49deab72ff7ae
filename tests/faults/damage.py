"""Ways to damage a spool file between two processes.

Each function damages the file at *path*, which has the events *keys*, and returns the
keys that are lost. It finds them in the bytes, without the library.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

Damage = Callable[[Path, Collection[str]], set[str]]

#: Bytes of a page of a file.
PAGE = 4096
#: Bytes of the header of a write-ahead log, and of the header of each frame.
LOG_HEADER, FRAME_HEADER = 32, 24
#: The id of a user that does not exist.
STRANGER = 12345


def flipped_bit(path: Path, keys: Collection[str]) -> set[str]:
    """Flips a bit of one event in the file."""
    _move_into_file(path)
    return _flip(path, min(keys))


def flipped_bit_in_log(path: Path, keys: Collection[str]) -> set[str]:
    """Flips a bit in the write-ahead log, where a killed process leaves its events."""
    return _flip(_log_of(path), min(keys))


def cut_off(path: Path, keys: Collection[str]) -> set[str]:
    """Cuts off the last page of the file."""
    _move_into_file(path)
    content = path.read_bytes()
    path.write_bytes(content[:-PAGE])
    return _without(keys, content[:-PAGE])


def cut_off_log(path: Path, keys: Collection[str]) -> set[str]:
    """Cuts off the last pages of the write-ahead log."""
    log = _log_of(path)
    content = log.read_bytes()
    pages = (len(content) - LOG_HEADER) // (FRAME_HEADER + PAGE)
    rest = content[: LOG_HEADER + pages // 2 * (FRAME_HEADER + PAGE)]
    log.write_bytes(rest)
    return _without(keys, rest)


def given_away(path: Path, keys: Collection[str]) -> set[str]:
    """Changes the owner, so that the content can't be trusted."""
    os.chown(path, STRANGER, -1)
    return set(keys)


def replaced_by_folder(path: Path, keys: Collection[str]) -> set[str]:
    """Replaces it by a folder."""
    path.unlink()
    path.mkdir()
    return set(keys)


def replaced_by_link(path: Path, keys: Collection[str]) -> set[str]:
    """Replaces it by a link to another file, which must not be followed."""
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
    """Move the content of the write-ahead log into the file, as SQLite does."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
