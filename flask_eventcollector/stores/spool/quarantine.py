"""Keeps track of unusable files."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from ...delivery.periodic_worker import drain
from ...delivery.store import QuarantinedFile, StoreProblem
from .folder import Claim


class Quarantine:
    """Renames damaged files, so that no process uses them, and lists them."""

    def __init__(self) -> None:
        #: How many files were quarantined.
        self.count = 0
        self._added: deque[QuarantinedFile] = deque()
        #: Files left in place: written by a newer version, or impossible to rename.
        self._skipped: dict[Path, str] = {}

    def add(self, claim: Claim, reason: str, rescued: int) -> None:
        """Quarantine the file, of which *rescued* events were copied or delivered."""
        try:
            path = claim.quarantine()
        except OSError as error:
            self.skip(claim, f"{reason}; renaming it failed ({error})")
            return
        self.count += 1
        self._added.append(QuarantinedFile(path, reason, rescued))

    def skip(self, claim: Claim, reason: str) -> None:
        """Ignore the file for the rest of this process's life."""
        self._skipped[claim.path] = f"{claim.path.name}: {reason}"
        claim.release()

    def is_skipped(self, path: Path) -> bool:
        """Whether the file is ignored."""
        return path in self._skipped

    @property
    def problems(self) -> list[StoreProblem]:
        """Why files are ignored."""
        reasons = "; ".join(self._skipped.values())
        return [StoreProblem("unusable files", reasons)] if reasons else []

    def drain(self) -> list[QuarantinedFile]:
        """The files that were quarantined since the last call."""
        return drain(self._added)
