"""Files by which processes show that they live: each locks one of its own.

At its end, the operating system unlocks it, however it ends. An id alone does not tell:
another process may have it by now, or the process is in another container.
"""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

from ..delivery.process import current_process

#: Windows has no such locks, and there, os.kill() ends a process.
HAS_LOCKS = os.name == "posix"

#: The descriptors of the locks. They are not closed before the end, since a process
#: loses its locks on a file when it closes any descriptor of it. A forked child does
#: not inherit them.
_held: dict[object, int] = {}


def show_life(path: Path) -> None:
    """Show by the file *path* that this process is not gone, until its end.

    Call it in one thread at a time. If the file was removed, it is made anew.

    :raises OSError: the file can't be made, or another process has locked it.
    """
    if _key(path) in _held and path.exists():
        return
    descriptor = locked(path, os.O_CREAT)
    removed = _held.pop(_key(path), None)
    _held[_key(path)] = descriptor
    if removed is not None:
        os.close(removed)


def end_life(path: Path) -> None:
    """Remove the file, if this process has made it."""
    descriptor = _held.pop(_key(path), None)
    if descriptor is not None:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_alive(path: Path) -> bool:
    """Whether the process that shows its life by *path* is not gone.

    So is one that is stopped, and one of another user, whose file can't be read.
    """
    if _key(path) in _held:
        return True
    try:
        os.close(locked(path, is_shared=True))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return not HAS_LOCKS


def locked(path: Path, flags: int = 0, *, is_shared: bool = False) -> int:
    """A descriptor of the file, which is locked now where there are locks.

    :param is_shared: whether others may lock it so, too, at the same time.
    :raises OSError: it can't be locked.
    """
    access = os.O_RDONLY if is_shared else os.O_RDWR
    descriptor = os.open(path, access | os.O_NOFOLLOW | flags, 0o600)
    try:
        if HAS_LOCKS:
            kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
            fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _key(path: Path) -> object:
    return current_process(), str(path)
