"""A small disk that can be full, and a process whose writes fail."""

from __future__ import annotations

import errno
import functools
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Bytes of the disk: more than any row of the matrix writes.
SIZE = 8 * 1024 * 1024
#: Bytes that a file may have while writes to larger ones fail. What the app under test
#: itself writes, and SQLite's index, stays below.
_LARGEST = 128 * 1024


class Disk:
    """A separate file system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    @contextmanager
    def full(self) -> Iterator[None]:
        """Fill the file system during the block."""
        fill(self._filler)
        yield
        self._filler.unlink()


def fill(path: Path) -> None:
    """Write to a new file until its file system is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


@contextmanager
def small_disk(size: int = SIZE) -> Iterator[Disk]:
    """A small tmpfs, during the block."""
    with tempfile.TemporaryDirectory(prefix="eventcollector-disk-") as folder:
        what = ("-t", "tmpfs", "-o", f"mode=700,size={size}", "tmpfs", folder)
        subprocess.run(["mount", *what], check=True, capture_output=True)
        try:
            yield Disk(Path(folder))
        finally:
            # Lazily: a process that is about to end may still have a file open on it.
            subprocess.run(["umount", "--lazy", folder], check=True)


@functools.cache
def no_disk() -> str | None:
    """Why such a disk can't be mounted; ``None``: it can."""
    try:
        with small_disk():
            return None
    except (OSError, subprocess.CalledProcessError):
        return "the right to mount a small disk (root's)"


@contextmanager
def failing_writes(pid: int) -> Iterator[None]:
    """Keep the large files of a process from growing during the block.

    The kernel refuses the writes. SQLite reports a disk I/O error, as for a broken
    disk.
    """
    most, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (_LARGEST, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, hard))
