"""Reads what all processes of an app have written down."""

from __future__ import annotations

import heapq
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from ...messages.wording import counted
from .. import life
from . import files
from .records import Counts, Line

#: How to read what this user may not.
OTHER_USER = "run this as the user that runs the app"


class History:
    """What all processes of an app have said."""

    def __init__(self, folder: Path, app: str) -> None:
        self.folder = folder
        self._prefix = files.prefix(app)
        #: By file: why it, or a part of it, could not be read, and was left out.
        self.problems: dict[Path, str] = {}

    def lines(self) -> list[Line]:
        """All lines, oldest first.

        :raises OSError: the folder can't be read.
        """
        return self._lines()

    def of(self, id: str) -> list[Line]:
        """The lines about the events whose id begins with *id*, oldest first.

        Of other lines, nobody asks whether they are damaged: that would take long.

        :raises OSError: the folder can't be read.
        """
        found = self._lines(json.dumps(id)[1:-1])
        return [line for line in found if any(one.startswith(id) for one in line.ids)]

    def counts(self) -> list[Counts]:
        """The counts of the processes that are running, by process id.

        :raises OSError: the folder can't be read.
        """
        return [one for one in self.last_counts() if self.is_running(one.process)]

    def last_counts(self) -> list[Counts]:
        """The last counts of all processes that have not removed them, by process id.

        One that was killed has left old ones.

        :raises OSError: the folder can't be read.
        """
        found = [
            one for path in self._paths(files.COUNTS) for one in self._counts(path)
        ]
        return sorted(found, key=lambda one: (one.pid, one.process))

    def is_running(self, process: str) -> bool:
        """Whether the process that has written files of this name is not gone."""
        return life.is_alive(self.folder / f"{self._prefix}{process}{files.LIFE}")

    def follow(self, since: float = math.inf) -> Follower:
        """What will happen from now on, and what has happened *since*.

        :param since: seconds since 1970.
        """
        return Follower(self, since)

    def paths_of_lines(self) -> list[Path]:
        """The files with lines.

        :raises OSError: the folder can't be read.
        """
        return self._paths(files.LINES)

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """Note why *path* can't be read; it may have been removed just now."""
        self.problems.pop(path, None)
        try:
            yield
        except FileNotFoundError:
            """Its process has renamed or removed it."""
        except OSError as error:
            cure = OTHER_USER if isinstance(error, PermissionError) else "try again"
            self.problems[path] = f"{error.strerror}: {cure}"

    def note_damage(self, path: Path, lines: int) -> None:
        """Note that so many of the *lines* of *path* are damaged."""
        if lines:
            verb = "is" if lines == 1 else "are"
            self.problems[path] = (
                f"{counted(lines, 'line')} {verb} damaged, so left out"
            )

    def _lines(self, about: str = "") -> list[Line]:
        """The lines, at least those that are written with *about*, oldest first.

        Those of one process stay in their order, even if the clock was set back.
        """
        processes = dict.fromkeys(map(self.process_of, self.paths_of_lines()))
        found = (self._lines_of(process, about) for process in processes)
        return [*heapq.merge(*found, key=lambda line: line.at)]

    def _lines_of(self, process: str, about: str) -> Iterator[Line]:
        """The lines of one process, at least those with the text *about*."""
        by_file: dict[int, list[Line]] = {}
        # The newer file first: if it is renamed meanwhile, it is read once more.
        for ending in (files.LINES, files.OLD_LINES):
            path = self.folder / f"{self._prefix}{process}{ending}"
            with self.reading(path):
                inode, content = files.read(path)
                texts = _lines_with(about, content)
                lines, damaged = _parsed(texts, process)
                self.note_damage(path, damaged)
                by_file.pop(inode, None)
                by_file[inode] = lines
        return chain.from_iterable(reversed(by_file.values()))

    def process_of(self, path: Path) -> str:
        """The process whose file that is."""
        return path.name.removeprefix(self._prefix).partition(".")[0]

    def _counts(self, path: Path) -> list[Counts]:
        """The counts in *path*, if there are any."""
        found = list[Counts]()
        with self.reading(path):
            try:
                text = files.read(path)[1].decode(errors="replace")
                found.append(Counts.from_json(text, self.process_of(path)))
            except ValueError:
                if self.is_running(self.process_of(path)):
                    self.problems[path] = "damaged, so its process is left out"
        return found

    def _paths(self, ending: str) -> list[Path]:
        # Unlike a glob, this fails if the folder can't be read.
        names = sorted(os.listdir(self.folder))
        ours = (name for name in names if name.startswith(self._prefix))
        return [self.folder / name for name in ours if name.endswith(ending)]


class Follower:
    """Reads the lines that are new since the last call."""

    def __init__(self, history: History, since: float) -> None:
        self._history = history
        #: By the file's inode, how far it was read.
        self._read: dict[int, int] = {}
        #: By the file, how many lines were damaged.
        self._damaged = Counter[Path]()
        #: The lines so far, oldest first.
        self.earlier = [line for line in self.new() if line.at >= since]

    def new(self) -> list[Line]:
        """The lines since the last call, oldest first."""
        found: list[Line] = []
        for path in self._history.paths_of_lines():
            with self._history.reading(path), files.opened(path) as file:
                about = os.fstat(file.fileno())
                read_to = self._read.get(about.st_ino, 0)
                # A new file may have the inode of one that was removed.
                file.seek(read_to if read_to <= about.st_size else 0)
                content = file.read()
                rest = len(content) - (content.rfind(b"\n") + 1)
                self._read[about.st_ino] = file.tell() - rest
                process = self._history.process_of(path)
                lines, damaged = _parsed(_whole_lines(content), process)
                found += lines
                self._damaged[path] += damaged
                self._history.note_damage(path, self._damaged[path])
        return sorted(found, key=lambda line: line.at)


def _whole_lines(content: bytes) -> list[str]:
    """The lines of a file; a process may be writing what follows the last one."""
    return content.decode(errors="replace").split("\n")[:-1]


def _lines_with(about: str, content: bytes) -> list[str]:
    """Those of the whole lines of a file that have the text *about*."""
    if about.encode() not in content:
        # Most files have none, and to split them takes long.
        return []
    return [text for text in _whole_lines(content) if about in text]


def _parsed(texts: Iterable[str], process: str) -> tuple[list[Line], int]:
    """The lines of *process* that *texts* are, and how many of them are none."""
    lines, damaged = list[Line](), 0
    for text in texts:
        try:
            lines.append(Line.from_json(text, process))
        except ValueError:
            damaged += 1
    return lines, damaged
