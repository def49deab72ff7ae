"""Checks whether a folder can hold the spool."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import ConfigurationError

#: A folder of this name belongs to the library, which may change its mode.
OWN_NAME = "eventcollector-spool"


def check_spool_dir(path: Path, key: str) -> None:
    """Check the folder, or the parent in which it will be created; creates nothing.

    :param key: the setting that names the folder, for the error message.
    :raises ConfigurationError: this process can't store events there safely.
    """
    if os.name != "posix":
        raise ConfigurationError(
            "the spool needs POSIX file locks, which this system does not have: set"
            " EVENTCOLLECTOR_BACKLOG to 'memory'"
        )
    try:
        problem = _problem(path, key) if _exists(path) else _problem_above(path)
    except PermissionError:
        problem = (
            f"the user of this process (id {os.geteuid()}) has no search permission for"
            " one of its parent folders: run this as the user that runs the app"
        )
    except OSError as error:
        problem = f"it can't be used ({error.strerror}): choose another path"
    if problem:
        raise ConfigurationError(f"{key} is {str(path)!r}, but {problem}")


def _exists(path: Path) -> bool:
    # Path.exists() treats a PermissionError differently across Python versions.
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _problem(path: Path, key: str) -> str:
    about = path.stat()
    if not stat.S_ISDIR(about.st_mode):
        return "that is not a folder: choose another path"
    if about.st_uid != os.geteuid():
        return (
            f"it belongs to the user with id {about.st_uid}, not to this process's user"
            f" (id {os.geteuid()}): run this as that user, chown it to the user that"
            f" runs the app, or {_use_folder_in(path, key)}"
        )
    if about.st_mode & 0o077 and path.name != OWN_NAME:
        return (
            f"other users can enter it (its mode is {about.st_mode & 0o777:o}), and"
            f" events may be confidential: chmod 700 it, or {_use_folder_in(path, key)}"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        return "this process has no write permission: chmod 700 it"
    return ""


def _use_folder_in(path: Path, key: str) -> str:
    """The cure for a mounted volume, which often can't change its owner or mode."""
    cure = f"set {key} to {str(path / OWN_NAME)!r}, a folder in it"
    if os.access(path, os.W_OK | os.X_OK):
        return f"{cure} that this process can create"
    return f"let this process's group write to it (fsGroup in Kubernetes) and {cure}"


def _problem_above(path: Path) -> str:
    above = next(folder for folder in path.parents if _exists(folder))
    if not above.is_dir():
        return f"{str(above)!r} is not a folder: choose another path"
    if not os.access(above, os.W_OK | os.X_OK):
        return (
            "it does not exist, and this process has no permission to create it in"
            f" {str(above)!r}: create it, and chown it to the user that runs the app"
        )
    return ""
