"""Which processes are gone, of those that share a folder of prometheus_client.

Each locks a file of its own. At its end, the operating system unlocks it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

from ..delivery.process import current_process

#: The environment variable that names the folder.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

#: A file that each process has that has a metric of this library, and its lock.
_NAME, _LOCK = "gauge_livesum_{}.db", ".lock"

#: The descriptors of the locks. They are never closed, since a process loses its locks
#: on a file when it closes any descriptor of it. A forked child does not inherit them.
_held: dict[object, int] = {}


def show_life(folder: Path) -> None:
    """Show that this process is not gone, from now on until its end.

    Does nothing if its files have another name: the app may choose one.
    """
    file, key = _file(folder), (current_process(), str(folder))
    if key not in _held and file.exists():
        descriptor = _locked(f"{file}{_LOCK}", os.O_CREAT)
        if descriptor is not None:
            _held.setdefault(key, descriptor)


def gone(folder: Path) -> Iterator[int]:
    """The ids of those that are gone: clean up after each of them.

    Those that have not shown that they live are left alone, and those of other users.
    """
    for lock in folder.glob(_NAME.format("*") + _LOCK):
        file = lock.with_suffix("")
        descriptor = None if file == _file(folder) else _locked(str(lock))
        if descriptor is not None:
            try:
                yield int(file.stem.rpartition("_")[2])
                lock.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _file(folder: Path) -> Path:
    return folder / _NAME.format(os.getpid())


def _locked(path: str, flags: int = 0) -> int | None:
    """A descriptor of the file, which is locked now; ``None``: it can't be locked."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    except OSError:
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
