"""Files that can't be used as they are."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from ...delivery.periodic_worker import take_all
from ...delivery.store import SetAside
from .folder import Claim


class Aside:
    """Renames them, so that nobody takes them for a spool, and says which they were."""

    def __init__(self) -> None:
        #: How many were set aside.
        self.count = 0
        self._news: deque[SetAside] = deque()
        #: Files that stay as they are: of a newer version, or impossible to rename.
        self._left_alone: dict[Path, str] = {}

    def put(self, claim: Claim, reason: str, rescued: int) -> None:
        """Set the file aside, of which *rescued* events are delivered all the same."""
        try:
            path = claim.set_aside()
        except OSError as error:
            self.leave_alone(claim, f"{reason}, and can't be renamed ({error})")
            return
        self.count += 1
        self._news.append(SetAside(path, reason, rescued))

    def leave_alone(self, claim: Claim, reason: str) -> None:
        """Let the file be, for as long as this process lives."""
        self._left_alone[claim.path] = f"{claim.path.name}: {reason}"
        claim.release()

    def is_left_alone(self, path: Path) -> bool:
        """Whether nothing can be done about it."""
        return path in self._left_alone

    @property
    def troubles(self) -> str:
        """Why files were left alone."""
        return "; ".join(self._left_alone.values())

    def take(self) -> list[SetAside]:
        """The files that were set aside since the last call."""
        return take_all(self._news)
