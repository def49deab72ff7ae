"""Whether a folder can hold the spool."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import ConfigurationError


def check_spool_dir(path: Path, key: str) -> None:
    """Look at the folder, or at the one in which it will be made; makes nothing.

    :param key: the setting that names it.
    :raises ConfigurationError: this process can't keep events there, in safety.
    """
    if os.name != "posix":
        raise ConfigurationError(
            "the spool needs the file locks of a POSIX system, which this is not: set"
            " EVENTCOLLECTOR_BACKLOG to 'memory'"
        )
    try:
        problem = _problem(path) if _exists(path) else _problem_above(path)
    except PermissionError:
        problem = (
            f"the user of this process (with the id {os.geteuid()}) may not look into a"
            " folder above it: run this as the user that runs the app"
        )
    if problem:
        raise ConfigurationError(f"{key} is {str(path)!r}, but {problem}")


def _exists(path: Path) -> bool:
    # What Path.exists() says where it may not look differs between Python's versions.
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _problem(path: Path) -> str:
    about = path.stat()
    if not stat.S_ISDIR(about.st_mode):
        return "that is no folder: name another path"
    if about.st_uid != os.geteuid():
        return (
            f"it belongs to the user with the id {about.st_uid}, not to this process's"
            f" ({os.geteuid()}): run this as that user, or give it (chown) to the user"
            " that runs the app"
        )
    if about.st_mode & 0o077:
        return (
            f"others may enter it (its mode is {about.st_mode & 0o777:o}), and events"
            " hold what they must not see: name a folder of its own, or chmod 700 it"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        return "this process may not write into it: chmod 700 it"
    return ""


def _problem_above(path: Path) -> str:
    above = next(folder for folder in path.parents if _exists(folder))
    if not above.is_dir():
        return f"{str(above)!r} is no folder: name another path"
    if not os.access(above, os.W_OK | os.X_OK):
        return (
            f"it is not there, and this process may not make it in {str(above)!r}: make"
            " it, and give it to the user that runs the app"
        )
    return ""
