"""What an app under test has tried to enqueue, written down where nothing can lose it.

One line an event, `REQUEST KEY`, handed to the kernel before the event is enqueued: it
is still there when the process is killed the moment after.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


class SideFile:
    """Appends to the file; any number of threads and processes may do so."""

    def __init__(self, path: Path | str) -> None:
        # A write to a file opened like this is one step, also between processes.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def attempt(self, request: int, keys: Iterable[str]) -> None:
        """Note that *request* is about to enqueue events with *keys*."""
        lines = "".join(f"{request} {key}\n" for key in keys)
        os.write(self._file, lines.encode())


def read(path: Path | str) -> dict[str, int]:
    """Return the request of each key in the file; a torn last line is left out."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return {}
    whole, _, _torn = text.rpartition("\n")
    pairs = (line.split(" ") for line in whole.splitlines())
    return {key: int(request) for request, key in pairs}
