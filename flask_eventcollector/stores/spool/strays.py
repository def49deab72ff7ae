"""Finds orphans for other brokers, or of other apps, that no process adopts."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from ...delivery.store import StoreProblem
from ...messages.wording import counted
from .event_counts import EventCounts
from .folder import Folder, destination_of

#: Seconds after which a dead process's file counts: its own app's processes have had
#: time to adopt it.
PATIENCE = 30.0
#: The most files named in one text.
_MOST_NAMED = 3


class Strays:
    """Files that no process adopts.

    They are the app's own for another broker, or belong to an app without a process:
    it may be this one under its former name.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        #: When each file was first found to have no process.
        self._found_at: dict[Path, float] = {}
        #: The app's files for other brokers that no process has adopted for a while.
        self._for_others: list[Path] = []
        #: Those of other apps, by name.
        self._of_others: dict[str, list[Path]] = {}
        self._counts = EventCounts()

    def scan(self) -> None:
        """Scan for them.

        :raises OSError: the folder can't be read.
        """
        now = time.monotonic()
        others, abandoned = self._folder.strays()
        found = chain(others, *abandoned.values())
        self._found_at = {path: self._found_at.get(path, now) for path in found}
        late = {p for p, t in self._found_at.items() if t + PATIENCE <= now}
        self._counts.update(late)
        left = {path for path in late if self._counts.of(path) != 0}
        self._for_others = [path for path in others if path in left]
        self._of_others = {
            app: [path for path in paths if path in left]
            for app, paths in abandoned.items()
            if late.issuperset(paths) and not left.isdisjoint(paths)
        }

    @property
    def files(self) -> list[Path]:
        """The files that no process has adopted for a while."""
        return [*chain(self._for_others, *self._of_others.values())]

    @property
    def events(self) -> int:
        """How many events are in :attr:`files`, as far as these can be read."""
        return self._counts.known(self.files)

    @property
    def problems(self) -> list[StoreProblem]:
        """The files, with the cures."""
        problems = []
        if self._for_others:
            problems.append(_for_others(self._for_others, self._counts))
        if self._of_others:
            problems.append(_of_others(self._of_others, self._counts))
        return problems


def from_before(files: Sequence[Path]) -> StoreProblem:
    """That *files* have events of an app whose backlog is in memory now."""
    named = _first(path.name for path in files)
    return StoreProblem(
        "from before",
        f"the backlog is in memory, so nobody sends the events in {named} in"
        f" {files[0].parent}: set EVENTCOLLECTOR_BACKLOG to 'spool' and run 'flask"
        " events flush'",
        once=True,
    )


def _for_others(files: Sequence[Path], counts: EventCounts) -> StoreProblem:
    named = _first(
        f"{path.name} ({_events(counts.of(path))}for {destination_name(path)})"
        for path in files
    )
    return StoreProblem(
        "strays",
        f"events for another broker or virtual host are left alone: {named}; if"
        " this app's broker was moved, run 'flask events adopt' with these names",
    )


def _of_others(
    files: Mapping[str, Sequence[Path]], counts: EventCounts
) -> StoreProblem:
    named = _first(
        f"{name!r} ({_events(counts.of(*paths))}in {counted(len(paths), 'file')})"
        for name, paths in files.items()
    )
    name = next(iter(files))
    return StoreProblem(
        f"apps: {' '.join(files)}",
        f"apps that have no process here have left events: {named}; if this app was"
        f" renamed, run {how_to_adopt(name)}, or set EVENTCOLLECTOR_SPOOL_NAME to its"
        " former name",
        once=True,
    )


def _events(number: int | None) -> str:
    """For example ``3 events``, with a space behind it; ``""``: it is unknown."""
    return "" if number is None else f"{counted(number, 'event')} "


def _first(names: Iterable[str]) -> str:
    """The *names*, as many as are named in one text."""
    names = [*names]
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def how_to_adopt(app: str) -> str:
    """The command that adopts the files of *app*."""
    return f"'flask events adopt --from {shlex.quote(app)}'"


def destination_name(path: Path) -> str:
    """The destination of the events in *path*, as text."""
    return str(destination_of(path) or "an unknown broker")
