"""Which processes are gone, of those that share a folder of prometheus_client.

Each locks a file of its own. At its end, the operating system unlocks it. An id alone
does not tell: the process may be in another container, which shares the folder.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..delivery.process import current_process
from . import life

#: The environment variable that names the folder.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

#: A file that each process has that has a metric of this library, and its lock.
_NAME, _LOCK = "gauge_livesum_{}.db", ".lock"
#: What a process says of its present, and its lock.
_LIVE = "gauge_live*_{}.db*"
#: The name of a lock: no process has the id 0.
_NAME_OF_LOCK = re.compile(r"gauge_livesum_([1-9][0-9]{0,9})\.db\.lock")

#: Bytes that must be free before a process begins to write there; it needs less.
ROOM = 1 << 20

#: The descriptors of the locks. They are never closed, since a process loses its locks
#: on a file when it closes any descriptor of it. A forked child does not inherit them.
_held: dict[object, int] = {}


def check_room(folder: Path) -> None:
    """Check that there is room for what a process writes first.

    prometheus_client maps its files into memory. If a disk has no room for what is
    written so, the process is killed: see SIGBUS in mmap(2).

    :raises OSError: there is none, or no such folder.
    """
    if shutil.disk_usage(folder).free < ROOM:
        raise OSError(errno.ENOSPC, "No room for metrics", str(folder))


def show_life(folder: Path) -> None:
    """Show that this process is not gone, from now on until its end.

    Does nothing if its files have another name, which the app may choose, or if the
    lock can't be made.
    """
    file, key = _file(folder, os.getpid()), (current_process(), str(folder))
    if life.HAS_LOCKS and key not in _held and file.exists():
        descriptor = _locked(f"{file}{_LOCK}", os.O_CREAT)
        if descriptor is not None:
            _held.setdefault(key, descriptor)


def forget_own() -> None:
    """Remove what this process has said of its present; what is counted stays.

    That includes gauges of the app's own, which a command has as soon as it loads the
    app.
    """
    if folder := os.environ.get(VARIABLE):
        for file in Path(folder).glob(_LIVE.format(os.getpid())):
            with suppress(OSError):
                file.unlink()


def gone(folder: Path) -> Iterator[int]:
    """The ids of those that are gone: clean up after each of them.

    Those that have not shown that they live are left alone, and those of other users.
    So is one whose id another process has now: in a container, ids come again after
    each start, and it may use the files already without having shown that it lives.
    """
    for lock in folder.glob(f"*{_LOCK}") if life.HAS_LOCKS else ():
        name = _NAME_OF_LOCK.fullmatch(lock.name)
        if name is None or _is_running(process := int(name[1])):
            continue
        if (descriptor := _locked(str(lock))) is not None:
            try:
                yield process
                lock.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _file(folder: Path, process: int) -> Path:
    return folder / _NAME.format(process)


def _is_running(process: int) -> bool:
    """Whether a process has this id, as far as this one can see."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # It is another user's.
    return True


def _locked(path: str, flags: int = 0) -> int | None:
    """A descriptor of the file, which is locked now; ``None``: it can't be locked."""
    try:
        return life.locked(Path(path), flags)
    except OSError:
        return None
