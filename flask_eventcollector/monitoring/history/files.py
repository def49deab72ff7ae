"""The files of the history, in one folder for all processes.

Each process has four, whose names begin with the app's: ``NAME@PID@RANDOM.jsonl`` has
its last lines, ``….old.jsonl`` those before them, ``….json`` its counts, once a second,
and ``….lock`` shows that it lives. None has a payload or a header.
"""

from __future__ import annotations

import errno
import io
import os
import re
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from .. import life

LINES, OLD_LINES, COUNTS, LIFE = ".jsonl", ".old.jsonl", ".json", ".lock"

_NAME = re.compile(r"[^@]+@[0-9]+@[0-9a-f]+\.(old\.jsonl|jsonl?|json\.new|lock)")


def prefix(app: str) -> str:
    """How the names of the files of *app* begin."""
    return f"{quote(app, safe='')}@"


def is_ours(path: Path) -> bool:
    """Whether it is a file of the history, of any app: others may be in its folder."""
    return _NAME.fullmatch(path.name) is not None


def shows_life(path: Path) -> bool:
    """Whether it shows that a process lives."""
    return path.suffix == LIFE and life.is_alive(path)


def opened(path: Path) -> BinaryIO:
    """The file for reading. A pipe that somebody has put there does not block."""
    more = os.O_NOFOLLOW | os.O_NONBLOCK
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | more))


def read(path: Path) -> tuple[int, bytes]:
    """The inode of the file, and its content."""
    with opened(path) as file:
        # A pipe may have nothing yet.
        return os.fstat(file.fileno()).st_ino, file.read() or b""


def append(path: Path, content: bytes) -> int:
    """Append all of *content*, or nothing; returns the size of the file.

    :raises OSError: nothing could be written.
    """
    with _open(path, os.O_APPEND) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            _write(file, content)
        except OSError:
            os.ftruncate(file.fileno(), before)
            raise
        return before + len(content)


def replace(path: Path, content: bytes) -> None:
    """Replace the file by one with this *content*.

    :raises OSError: it could not be written.
    """
    new = path.with_name(f"{path.name}.new")
    with _open(new, os.O_TRUNC) as file:
        _write(file, content)
    new.replace(path)


def _write(file: io.FileIO, content: bytes) -> None:
    """Write all of *content*.

    :raises OSError: a part may be written.
    """
    if file.write(content) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _open(path: Path, flags: int) -> io.FileIO:
    mode = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flags
    return io.FileIO(os.open(path, mode, 0o600), "w")
