"""What the system tells about a process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

#: See proc_pid_stat(5): stopped by a signal, or by a debugger.
_STOPPED = ("T", "t")
_STATE, _START = 0, 19
#: See proc_pid_fd(5).
_REMOVED = ".spool (deleted)"


def is_stopped(process: int) -> bool:
    """Whether a signal has stopped it, so that it does nothing until SIGCONT."""
    return _stat(process)[_STATE : _STATE + 1] in ([state] for state in _STOPPED)


def ran_at(process: int, moment: float) -> bool:
    """Whether this user's process of this id was running at *moment*, and still is.

    :param moment: seconds since 1970.
    """
    about = _stat(process)
    with suppress(OSError, ValueError, IndexError):
        is_ours = os.stat(f"/proc/{process}").st_uid == os.geteuid()
        began = int(about[_START]) / os.sysconf("SC_CLK_TCK") + _boot()
        return is_ours and began <= moment
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


def _stat(process: int) -> list[str]:
    """What follows the name in its line; empty: there is no such process."""
    with suppress(OSError):
        text = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
        return text.rpartition(") ")[2].split()
    return []


def _boot() -> float:
    """When the machine was started, in seconds since 1970.

    :raises OSError: it is not known here.
    """
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    raise OSError
