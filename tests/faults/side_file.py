"""What an app under test has tried to enqueue, written down where nothing can lose it.

One line an event, `KEY REQUEST`, handed to the kernel before the event is enqueued: it
is still there when the process is killed the moment after. Files beside it tell in the
same form which events the library has said to be published, or dropped, which files of
the spool it has said to be set aside, and, of work that is no request, which was done.
"""

from __future__ import annotations

import os
from pathlib import Path


def note(path: Path | str, key: str, request: str) -> None:
    """Append a line: one write, so the lines of several processes never mix."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f"{key} {request}\n".encode())
    finally:
        os.close(file)


def read(path: Path | str) -> dict[str, str]:
    """Return the request of each key in the file; a torn last line is left out."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return {}
    whole, _, _torn = text.rpartition("\n")
    return dict(line.split(" ", 1) for line in whole.splitlines())


def confirmed_in(path: Path | str) -> Path:
    """Where the events are noted that are said to be published."""
    return Path(f"{path}.confirmed")


def dropped_in(path: Path | str) -> Path:
    """Where the events are noted that are said to be dropped."""
    return Path(f"{path}.dropped")


def set_aside_in(path: Path | str) -> Path:
    """Where the files are noted that are said to be set aside."""
    return Path(f"{path}.set-aside")


def done_in(path: Path | str) -> Path:
    """Where the events are noted whose unit of work has ended well."""
    return Path(f"{path}.done")
