"""Files in which an app under test notes its events, where they can't be lost.

The side file has one line per event, `KEY REQUEST`, which is passed to the kernel
before the event is enqueued. So it survives if the process is killed a moment later.
Files beside it have the same form. They list the events that the library reported as
published or dropped.
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
    """Return the request of each key in the file; a torn last line is ignored."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return {}
    whole, _, _torn = text.rpartition("\n")
    return dict(line.split(" ", 1) for line in whole.splitlines())


def confirmed_in(path: Path | str) -> Path:
    """Where events are noted that were reported as published."""
    return Path(f"{path}.confirmed")


def dropped_in(path: Path | str) -> Path:
    """Where events are noted that were reported as dropped."""
    return Path(f"{path}.dropped")
