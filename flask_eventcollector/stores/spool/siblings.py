"""Lets the processes that share a spool folder tell each other of the broker."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from .folder import Folder

#: Seconds over which those that hear of it spread their attempts to connect.
SPREAD = 1.0


class Siblings:
    """The processes with files of the same app, for the same broker, in one folder.

    A process that has connected touches the lock of each file, whose process notices
    that. It takes no other file, and no room on a full disk.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._uniform = uniform
        #: Called once another process has connected; set before the first run.
        self.on_connected: Callable[[], object] = lambda: None
        self._has_news = False
        #: When the lock of each of this process's files was last touched.
        self._touched: dict[Path, int] = {}
        #: When to pass on what was heard.
        self._due = float("inf")

    def tell(self) -> None:
        """Tell the others in the next run that this process has connected."""
        self._has_news = True

    def run(self, adopted: Iterable[Path]) -> float:
        """Tell the others, and listen to them; returns the seconds until the next run.

        :param adopted: the files of dead processes that are this one's now.
        """
        if self._has_news:
            self._has_news = False
            with suppress(OSError):
                self._folder.touch()
        now = self._clock()
        if self._hears([*self._folder.own_files(), *adopted]):
            self._due = min(self._due, now + self._uniform() * SPREAD)
        if self._due <= now:
            self._due = float("inf")
            self.on_connected()
        return self._due - now

    def _hears(self, paths: Iterable[Path]) -> bool:
        """Whether any of the files was touched since the last call."""
        before, self._touched = self._touched, self._folder.touched(paths)
        return any(
            before.get(p, moment) != moment for p, moment in self._touched.items()
        )
