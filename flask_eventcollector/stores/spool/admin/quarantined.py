"""Lists and removes quarantined files."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..folder import Folder, ForeignFile, can_hold_events
from ..journal import SUFFIXES, NewerVersion
from ..recovery.salvage import intact_rows
from ..recovery.wal import check_wal


class Quarantined(NamedTuple):
    """A quarantined file."""

    path: Path
    #: Why it can't be used.
    reason: str
    #: How many intact events it still has; ``None``: it can't be read.
    readable: int | None
    #: Seconds since it was quarantined.
    age: float


def quarantined_files(folder: Folder) -> list[Quarantined]:
    """The quarantined files. Each is read whole, which may take seconds.

    :raises OSError: the folder can't be read.
    """
    files = map(_examine, folder.quarantined_files())
    return [file for file in files if file is not None]


def remove(path: Path) -> None:
    """Delete a quarantined file for good.

    :raises OSError: the folder can't be written.
    """
    # The file itself last, so that what is left of an interrupted removal is listed.
    for suffix in (*SUFFIXES, ""):
        with suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")


def _examine(path: Path) -> Quarantined | None:
    try:
        # Renaming a file sets its ctime.
        age = max(0.0, time.time() - os.lstat(path).st_ctime)
    except FileNotFoundError:
        return None
    return Quarantined(path, _reason(path), _readable(path), age)


def _reason(path: Path) -> str:
    try:
        can_hold_events(path)
        check_wal(path)
    except (OSError, sqlite3.Error, ForeignFile, NewerVersion) as error:
        return str(error)
    return "a page or a row is damaged"


def _readable(path: Path) -> int | None:
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return sum(1 for _ in intact_rows(path))
    except OSError:
        return None
