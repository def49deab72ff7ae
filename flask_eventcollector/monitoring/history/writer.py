"""Writes the files of this process."""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import life
from . import files
from .records import Line

#: The most bytes of a file with lines; a process has two.
MOST_BYTES = 4 * 1024 * 1024
#: Seconds for which the files of an ended process are kept.
KEPT_FOR = 24 * 3600.0


class HistoryWriter:
    """The files of this process."""

    def __init__(self, folder: Path, app: str) -> None:
        self._folder = folder
        self.pid = os.getpid()
        self._stem = f"{files.prefix(app)}{self.pid}@{secrets.token_hex(4)}"

    def begin(self) -> None:
        """Create the folder, which only its owner can enter, and remove old files.

        Does nothing until the folder, or this process's files, are removed.

        :raises OSError: it can't be created, or has no room for this process.
        """
        if self._path(files.LIFE).exists():
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        life.show_life(self._path(files.LIFE))
        oldest = time.time() - KEPT_FOR
        for path in filter(files.is_ours, self._folder.iterdir()):
            with suppress(OSError):
                if path.stat().st_mtime < oldest and not files.shows_life(path):
                    path.unlink()

    def write(self, lines: list[Line]) -> None:
        """Append *lines*.

        :raises OSError: they can't be written.
        """
        if not lines:
            return
        text = "".join(f"{line.as_json()}\n" for line in lines)
        path = self._path(files.LINES)
        if files.append(path, text.encode()) > MOST_BYTES:
            path.replace(self._path(files.OLD_LINES))

    def write_counts(self, stats: dict[str, Any]) -> None:
        """Replace the counts.

        :raises OSError: they can't be written.
        """
        counts = {"pid": self.pid, "at": time.time(), "stats": stats}
        files.replace(self._path(files.COUNTS), json.dumps(counts).encode())

    def end(self) -> None:
        """Remove the counts: this process holds nothing any more."""
        self._path(files.COUNTS).unlink(missing_ok=True)
        life.end_life(self._path(files.LIFE))

    def _path(self, ending: str) -> Path:
        return self._folder / f"{self._stem}{ending}"
