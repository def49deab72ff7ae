"""The files in which processes say what happens to their events.

Each process has four files in the folder, whose names begin with the app's:
``NAME@PID@RANDOM.jsonl`` has its last lines, ``….old.jsonl`` those before them,
``….json`` its counts, once a second, and ``….lock`` shows that it lives. None has a
payload or a header.
"""

from __future__ import annotations

import errno
import heapq
import io
import json
import math
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import quote

from ..delivery.broker_status import describe
from ..events import BrokerState, Stats, TargetProblem
from ..messages.wording import counted
from . import life
from .declared import is_as_declared

T = TypeVar("T")

_FIELDS = frozenset(field.name for field in fields(Stats))

LINES, OLD_LINES, COUNTS, LIFE = ".jsonl", ".old.jsonl", ".json", ".lock"
#: The most bytes of a file with lines; a process has two.
MOST_BYTES = 4 * 1024 * 1024
#: Seconds for which the files of an ended process are kept.
KEPT_FOR = 24 * 3600.0
#: Seconds without new counts after which a process counts as silent.
SILENT_AFTER = 10.0


class Line(NamedTuple):
    """One thing that happened to events of one process."""

    #: Seconds since 1970.
    at: float
    pid: int
    what: str
    ids: list[str]
    queue: str
    exchange: str
    reason: str
    outcome: str
    attempt: int
    #: Seconds since the hand-over.
    elapsed: float
    #: Where the event was enqueued.
    where: str
    #: Since when it may be sent, in seconds since 1970; 0: it had no delay.
    due: float = 0.0
    #: The process, which no other one is called, as in the names of its files.
    process: str = ""

    def as_json(self) -> str:
        """The line as text, without what is empty."""
        return json.dumps({k: v for k, v in self._asdict().items() if v})

    @classmethod
    def from_json(cls, text: str, process: str = "") -> Line:
        """The line of *process* that *text* is.

        :raises ValueError: it is none.
        """
        texts = dict.fromkeys(["queue", "exchange", "reason", "outcome", "where"], "")
        numbers = {"pid": 0, "attempt": 0, "elapsed": 0.0, "due": 0.0}
        fields = {"ids": [], **texts, **numbers, **_object(text), "process": process}
        return _checked(cls._make(map(fields.get, cls._fields)))


class Counts(NamedTuple):
    """What one process has counted."""

    pid: int
    #: When, in seconds since 1970.
    at: float
    #: The fields of :class:`~flask_eventcollector.Stats`.
    stats: dict[str, Any]
    #: As in :class:`Line`.
    process: str = ""

    @classmethod
    def from_json(cls, text: str, process: str = "") -> Counts:
        """The counts of *process* that *text* is.

        :raises ValueError: it is none.
        """
        fields = _object(text) | {"process": process}
        counts = _checked(cls._make(map(fields.get, cls._fields)))
        try:
            _checked(counts.books)
        except TypeError as error:
            raise ValueError(str(error)) from error
        return counts

    @property
    def books(self) -> Stats:
        """The same; a field that this version does not know is left out."""
        known = {name: v for name, v in self.stats.items() if name in _FIELDS}
        found = [TargetProblem(**problem) for problem in known.pop("problems", ())]
        broker = BrokerState(known.pop("broker", BrokerState.IDLE))
        return Stats(**known, broker=broker, problems=tuple(found))

    @property
    def is_current(self) -> bool:
        """Whether the process is still counting. If not, it is stopped, or hangs."""
        # The clock may have been set back.
        return abs(time.time() - self.at) < SILENT_AFTER


def total(counts: Iterable[Counts], name: str) -> int:
    """The sum of the field *name* of :class:`~flask_eventcollector.Stats`."""
    return sum(int(one.stats.get(name, 0)) for one in counts)


def problems(counts: Iterable[Counts]) -> list[str]:
    """What keeps events from being confirmed, each once."""
    every = [*counts]
    books = [one.books for one in every]
    found = [silence for one in every if (silence := silence_of(one))]
    found += [error for one in books for error in _errors(one)]
    found += [str(target) for one in books for target in one.problems]
    return [problem for problem in dict.fromkeys(found) if problem]


def silence_of(counts: Counts) -> str:
    """That a running process counts no more; ``""``: it does."""
    if counts.is_current:
        return ""
    seconds = max(0.0, time.time() - counts.at)
    return (
        f"process {counts.pid} has said nothing for {seconds:.0f} s: it is stopped, or"
        " hangs"
    )


def _errors(books: Stats) -> list[str]:
    broker = books.broker_error
    if books.broker.is_trouble:
        broker = describe(books.broker, broker)
    return [broker, books.spool_error, books.outbox_error]


class HistoryWriter:
    """The files of this process."""

    def __init__(self, folder: Path, app: str) -> None:
        self._folder = folder
        self.pid = os.getpid()
        self._stem = f"{_prefix(app)}{self.pid}@{secrets.token_hex(4)}"

    def begin(self) -> None:
        """Create the folder, which only its owner can enter, and remove old files.

        :raises OSError: it can't be created, or has no room for this process.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        life.show_life(self._path(LIFE))
        oldest = time.time() - KEPT_FOR
        for path in filter(_is_ours, self._folder.iterdir()):
            with suppress(OSError):
                if path.stat().st_mtime < oldest and not _shows_life(path):
                    path.unlink()

    def write(self, lines: list[Line]) -> None:
        """Append *lines*.

        :raises OSError: they can't be written.
        """
        if not lines:
            return
        text = "".join(f"{line.as_json()}\n" for line in lines)
        path = self._path(LINES)
        if _append(path, text.encode()) > MOST_BYTES:
            path.replace(self._path(OLD_LINES))

    def write_counts(self, stats: dict[str, Any]) -> None:
        """Replace the counts.

        :raises OSError: they can't be written.
        """
        path = self._path(COUNTS)
        new = path.with_name(f"{path.name}.new")
        counts = {"pid": self.pid, "at": time.time(), "stats": stats}
        with _open(new, os.O_TRUNC) as file:
            _write(file, json.dumps(counts).encode())
        new.replace(path)

    def end(self) -> None:
        """Remove the counts: this process holds nothing any more."""
        self._path(COUNTS).unlink(missing_ok=True)
        life.end_life(self._path(LIFE))

    def _path(self, ending: str) -> Path:
        return self._folder / f"{self._stem}{ending}"


class History:
    """What all processes of an app have said."""

    def __init__(self, folder: Path, app: str) -> None:
        self.folder = folder
        self._prefix = _prefix(app)
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
        found = [one for path in self._paths(COUNTS) for one in self._counts(path)]
        return sorted(found, key=lambda one: (one.pid, one.process))

    def is_running(self, process: str) -> bool:
        """Whether the process that has written files of this name is not gone."""
        return life.is_alive(self.folder / f"{self._prefix}{process}{LIFE}")

    def follow(self, since: float = math.inf) -> Follower:
        """What will happen from now on, and what has happened *since*.

        :param since: seconds since 1970.
        """
        return Follower(self, since)

    def paths_of_lines(self) -> list[Path]:
        """The files with lines.

        :raises OSError: the folder can't be read.
        """
        return self._paths(LINES)

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
        for ending in (LINES, OLD_LINES):
            path = self.folder / f"{self._prefix}{process}{ending}"
            with self.reading(path):
                inode, content = _read(path)
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
                text = _read(path)[1].decode(errors="replace")
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
            with self._history.reading(path), _opened(path) as file:
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


_NAME = re.compile(r"[^@]+@[0-9]+@[0-9a-f]+\.(old\.jsonl|jsonl?|json\.new|lock)")
OTHER_USER = "run this as the user that runs the app"


def _prefix(app: str) -> str:
    return f"{quote(app, safe='')}@"


def _is_ours(path: Path) -> bool:
    """Whether it is a file of the history, of any app: others may be in its folder."""
    return _NAME.fullmatch(path.name) is not None


def _shows_life(path: Path) -> bool:
    """Whether it shows that a process lives."""
    return path.suffix == LIFE and life.is_alive(path)


def _opened(path: Path) -> BinaryIO:
    """The file for reading. A pipe that somebody has put there does not block."""
    more = os.O_NOFOLLOW | os.O_NONBLOCK
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | more))


def _read(path: Path) -> tuple[int, bytes]:
    """The inode of the file, and its content."""
    with _opened(path) as file:
        # A pipe may have nothing yet.
        return os.fstat(file.fileno()).st_ino, file.read() or b""


def _append(path: Path, content: bytes) -> int:
    """Append all of *content*, or nothing; returns the size of the file.

    :raises OSError: nothing could be written.
    """
    with _open(path, os.O_APPEND) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            _write(file, content)
        except OSError:
            os.ftruncate(file.fileno(), before)
            raise
        return before + len(content)


def _write(file: io.FileIO, content: bytes) -> None:
    """Write all of *content*.

    :raises OSError: a part may be written.
    """
    if file.write(content) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _open(path: Path, flags: int) -> io.FileIO:
    mode = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flags
    return io.FileIO(os.open(path, mode, 0o600), "w")


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


def _object(text: str) -> dict[str, Any]:
    """The JSON object that *text* is.

    :raises ValueError: it is none.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _checked(found: T) -> T:
    """What was *found*.

    :raises ValueError: a field has not the type that is declared.
    """
    if not is_as_declared(found):
        raise ValueError("a field has another type")
    return found
