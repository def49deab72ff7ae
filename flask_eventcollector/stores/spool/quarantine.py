"""Files that can't be used as they are."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from ...delivery.periodic_worker import drain
from ...delivery.store import QuarantinedFile
from .folder import Claim


class Quarantine:
    """Renames them, so that nobody takes them for a spool, and says which they were."""

    def __init__(self) -> None:
        #: How many were set aside.
        self.count = 0
        self._added: deque[QuarantinedFile] = deque()
        #: Files that stay as they are: of a newer version, or impossible to rename.
        self._skipped: dict[Path, str] = {}

    def add(self, claim: Claim, reason: str, rescued: int) -> None:
        """Set the file aside, of which *rescued* events are delivered all the same."""
        try:
            path = claim.quarantine()
        except OSError as error:
            self.skip(claim, f"{reason}, and can't be renamed ({error})")
            return
        self.count += 1
        self._added.append(QuarantinedFile(path, reason, rescued))

    def skip(self, claim: Claim, reason: str) -> None:
        """Let the file be, for as long as this process lives."""
        self._skipped[claim.path] = f"{claim.path.name}: {reason}"
        claim.release()

    def is_skipped(self, path: Path) -> bool:
        """Whether nothing can be done about it."""
        return path in self._skipped

    @property
    def problems(self) -> str:
        """Why files were left alone."""
        return "; ".join(self._skipped.values())

    def drain(self) -> list[QuarantinedFile]:
        """The files that were set aside since the last call."""
        return drain(self._added)
