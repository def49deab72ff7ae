"""What the system tells about a process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

#: See proc_pid_stat(5): stopped by a signal, or by a debugger.
_STOPPED = ("T", "t")
#: See proc_pid_fd(5).
_REMOVED = ".spool (deleted)"


def is_stopped(process: int) -> bool:
    """Whether a signal has stopped it, so that it does nothing until SIGCONT."""
    with suppress(OSError):
        text = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
        # Behind its name, which may be anything.
        return text.rpartition(") ")[2].startswith(_STOPPED)
    return False


def environment(process: int) -> dict[str, str]:
    """The environment with which it was started; empty: it can't be read."""
    with suppress(OSError):
        text = Path(f"/proc/{process}/environ").read_text("utf-8", "surrogateescape")
        pairs = (entry.partition("=") for entry in text.split("\0") if entry)
        return {name: value for name, _, value in pairs}
    return {}


def has_removed(process: int, folder: Path) -> bool:
    """Whether it has a file of a spool open that was removed from *folder*."""
    begins = f"{folder.resolve()}/"
    names = _open_files(process)
    return any(n.startswith(begins) and n.endswith(_REMOVED) for n in names)


def _open_files(process: int) -> Iterator[str]:
    place = f"/proc/{process}/fd"
    with suppress(OSError):
        for number in os.listdir(place):
            with suppress(OSError):
                yield os.readlink(f"{place}/{number}")


def named(processes: Iterable[int]) -> str:
    """For example ``process 12``, or ``processes 12, 13``."""
    found = [str(process) for process in sorted(set(processes))]
    return f"process{'es' * (len(found) > 1)} {', '.join(found)}"
