"""Finds orphans for other brokers that no process adopts."""

from __future__ import annotations

import time
from pathlib import Path

from ...delivery.store import StoreProblem
from .folder import Folder, claim_orphan, destination_of

#: Seconds after which a dead process's file counts: its own app's processes have had
#: time to adopt it.
PATIENCE = 30.0
#: The most files named in one text.
_MOST_NAMED = 3


class Strays:
    """The app's files that must not be adopted, since they are for another broker."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        #: When each file was first found to have no process.
        self._found_at: dict[Path, float] = {}
        #: The files that no process has adopted for a while.
        self.files: tuple[Path, ...] = ()

    def scan(self) -> None:
        """Scan for them.

        :raises OSError: the folder can't be read.
        """
        now = time.monotonic()
        orphans = [path for path in self._folder.other_files() if _is_orphan(path)]
        self._found_at = {path: self._found_at.get(path, now) for path in orphans}
        self.files = tuple(p for p, t in self._found_at.items() if t + PATIENCE <= now)

    @property
    def problem(self) -> StoreProblem | None:
        """The files, with the cure; ``None``: there are none."""
        files = self.files
        if not files:
            return None
        named = ", ".join(
            f"{p.name} (for {destination_name(p)})" for p in files[:_MOST_NAMED]
        )
        more = len(files) - _MOST_NAMED
        named += f" and {more} more" if more > 0 else ""
        return StoreProblem(
            "strays",
            f"events for another broker or virtual host are left alone: {named}; if"
            " this app's broker was moved, run 'flask events adopt' with these names",
        )


def destination_name(path: Path) -> str:
    """The destination of the events in *path*, as text."""
    return str(destination_of(path) or "an unknown broker")


def _is_orphan(path: Path) -> bool:
    claim = claim_orphan(path)
    if claim is not None:
        claim.release()
    return claim is not None
