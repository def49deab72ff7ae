"""Reads spool files without writing to them."""

from __future__ import annotations

import heapq
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ....delivery.refusals import Refusal
from ....events import Event
from ...filter import ALL, Filter
from ...sums import MOST_TARGETS, TargetSum, summed
from ..folder import Folder, ForeignFile, can_hold_events, creator_of, holder_of
from ..journal import SUFFIXES, Journal, NewerVersion, is_damage
from ..recovery.wal import check_wal
from ..refusals import KnownRefusals
from ..rows import DamagedRow, StoredEvent, intact, read_row

#: Rows that are read at a time. While a file is read, its owner can't shrink it.
_PAGE = 100

#: The exceptions from opening or reading a file; see :func:`explain_read_error`.
READ_ERRORS = (OSError, sqlite3.Error, ForeignFile, NewerVersion)


#: Why a quarantined file is not read.
QUARANTINED = "quarantined, so no process reads it: see 'flask events quarantine list'"


class Unreadable(Exception):
    """A file or a table that a command could not read, deliver or change."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{Path(path).name}: {reason}")
        #: The file's path, or the table's name.
        self.path = path
        #: The reason and the cure.
        self.reason = reason


class Gone(Exception):
    """The file was removed while it was read, since it had no events left."""


class Owner(NamedTuple):
    """The process that owns a file."""

    #: 0 if unknown.
    process: int
    alive: bool

    def __str__(self) -> str:
        process = f"process {self.process}" if self.process else "a process"
        return process if self.alive else f"{process} (gone)"


@dataclass(frozen=True)
class Report:
    """The content of one file, in numbers."""

    path: Path
    owner: Owner
    waiting: int = 0
    dead: int = 0
    #: How many of the waiting ones are delayed.
    delayed: int = 0
    #: Seconds since the oldest of them was enqueued.
    oldest_age: float | None = None
    bytes: int = 0
    #: Why the file can't be read; ``None``: it can.
    problem: Unreadable | None = None

    @property
    def has_events(self) -> bool:
        """Whether it has events, or may have some."""
        return bool(self.waiting or self.dead or self.problem)

    @property
    def is_left(self) -> bool:
        """Whether it has events that could have been delivered, or may have some."""
        return bool(self.waiting > self.delayed or self.dead or self.problem)

    @property
    def is_here(self) -> bool:
        """Whether the current process owns it."""
        return self.owner == Owner(os.getpid(), True)


class Total(NamedTuple):
    """The content of several files, in numbers."""

    waiting: int
    delayed: int
    dead: int
    oldest_age: float | None
    bytes: int


class Found(NamedTuple):
    """An event in a file."""

    path: Path
    owner: Owner
    stored: StoredEvent
    #: Its last refusal, if it is waiting; ``None``: not known.
    refusal: Refusal | None = None

    @property
    def event(self) -> Event:
        return self.stored.event

    @property
    def place(self) -> str:
        """Where it is stored."""
        return str(self.path)

    @property
    def reason(self) -> str | None:
        """Why it is dead, or why the broker refused it last."""
        if self.stored.dead is not None or self.refusal is None:
            return self.stored.dead
        return self.refusal.reason_for(self.event.id)

    @property
    def attempts(self) -> int | None:
        """How many times it was sent; ``None``: not known."""
        if self.refusal is None or self.refusal.id != self.stored.event.id:
            return None
        return self.refusal.attempts

    @property
    def last_try(self) -> float | None:
        """When it was sent the last time, as a Unix time; ``None``: not known."""
        if self.refusal is None or self.attempts is None:
            return None
        return self.refusal.last_try

    @property
    def next_try(self) -> float | None:
        """Seconds until it may be sent again; ``None``: not known."""
        if self.state == "delayed":
            return self.event.due_in
        is_sent = self.state == "waiting" and self.owner.alive
        if not is_sent or self.refusal is None or self.refusal.next_try is None:
            return None
        return max(0.0, self.refusal.next_try - time.time())

    @property
    def state(self) -> str:
        return self.event.waiting_state if self.stored.dead is None else "dead"

    @property
    def is_left(self) -> bool:
        """Whether the process that had it is gone."""
        return not self.owner.alive


def owner_of(path: Path) -> Owner:
    """The current or last owner of *path*."""
    holder = holder_of(path)
    return Owner(creator_of(path), False) if holder is None else Owner(holder, True)


def reports(folder: Folder) -> list[Report]:
    """A report on each file."""
    return _reports(folder.files())


def reports_of_others(folder: Folder) -> list[Report]:
    """A report on each file of the app that belongs to another broker."""
    return _reports(folder.other_files())


def reports_of_apps(folder: Folder) -> dict[str, list[Report]]:
    """A report on each file with events of other apps without a process, by name."""
    apps = {n: _reports(paths) for n, paths in folder.abandoned_files().items()}
    left = {n: [f for f in files if f.has_events] for n, files in apps.items()}
    return {name: files for name, files in left.items() if files}


def left_alone(folder: Folder) -> list[Report]:
    """A report on each file with events that no process will adopt."""
    files = [file for file in reports_of_others(folder) if not file.owner.alive]
    left = [file for file in files if file.has_events]
    return left + [file for files in reports_of_apps(folder).values() for file in files]


def report(path: Path) -> Report | None:
    """A report on one file; ``None``: it no longer exists."""
    owner = owner_of(path)
    size = _size(path)
    try:
        with reading(path) as journal:
            if journal is None:
                return Report(path, owner, bytes=size)
            waiting, dead, oldest = journal.sums()
            delayed = sum(bool(row.event.due_in) for row in intact(journal.delayed()))
    except Gone:
        return None
    except Unreadable as error:
        return Report(path, owner, bytes=size, problem=error)
    age = None if oldest is None else max(0.0, round(time.time() - oldest / 1e6, 3))
    return Report(path, owner, waiting, dead, delayed, age, size)


def total(files: Sequence[Report]) -> Total:
    """The sum over *files*, as far as they could be read."""
    ages = [file.oldest_age for file in files if file.oldest_age is not None]
    return Total(
        waiting=sum(file.waiting for file in files),
        delayed=sum(file.delayed for file in files),
        dead=sum(file.dead for file in files),
        oldest_age=max(ages, default=None),
        bytes=sum(file.bytes for file in files),
    )


def quarantined(folder: Folder) -> list[Unreadable]:
    """The quarantined files, which no process reads."""
    return [Unreadable(path, QUARANTINED) for path in folder.quarantined_files()]


def events_in(
    folder: Folder, problems: list[Unreadable], wanted: Filter = ALL
) -> Iterator[Found]:
    """The *wanted* events, in the order in which they were enqueued.

    Unreadable and quarantined files are skipped, and added to *problems*. So are
    damaged rows, as far as they are read.
    """
    problems += quarantined(folder)
    paths = folder.files()
    known = KnownRefusals(paths)
    files = [_events(path, problems, wanted, known) for path in paths]
    return heapq.merge(*files, key=lambda found: found.stored.event.enqueued_at)


def sums_by_target(
    folder: Folder, problems: list[Unreadable], most: int = MOST_TARGETS
) -> list[TargetSum]:
    """What waits for each target, in the files together.

    :param problems: gets the files that can't be read.
    :param most: of a file, so many targets with the most events.
    """
    sums: list[TargetSum] = []
    for path in folder.files():
        try:
            with suppress(Gone), reading(path) as journal:
                sums += journal.sums_by_target(most) if journal else []
        except Unreadable as error:
            problems.append(error)
    known = KnownRefusals(folder.files())
    return [_explained(one, known) for one in summed(sums)]


def _explained(sums: TargetSum, known: KnownRefusals) -> TargetSum:
    """*sums*, with the last refusal for its target."""
    refusal = known.last_for(sums.target)
    if refusal is None:
        return sums
    left = (refusal.next_try or 0.0) - time.time()
    # If it has passed, the process may be gone.
    next_try = left if left > 0 else None
    reason, attempts = refusal.reason, refusal.attempts
    return sums._replace(reason=reason, attempts=attempts, next_try=next_try)


def events_with(
    folder: Folder, ids: list[str], problems: list[Unreadable]
) -> list[Found]:
    """The events with *ids*. An event may be in several files."""
    found: list[Found] = []
    paths = folder.files()
    known = KnownRefusals(paths)
    for path in paths:
        try:
            found += _events_with(path, ids, problems, known)
        except Unreadable as error:
            problems.append(error)
    return found


def ids_from(
    folder: Folder, prefix: str, problems: list[Unreadable] | None = None
) -> set[str]:
    """The ids that start with *prefix*, as far as the files can be read.

    :param problems: gets the files that can't be read.
    """
    found: set[str] = set()
    for path in folder.files():
        try:
            with suppress(Gone), reading(path) as journal:
                found.update(journal.ids_from(prefix) if journal else ())
        except Unreadable as error:
            if problems is not None:
                problems.append(error)
    return found


@contextmanager
def reading(path: Path, *, again: bool = False) -> Iterator[Journal | None]:
    """Open *path* for reading; ``None``: it has no content.

    :param again: it was just open, so it need not be checked for damage.
    :raises Gone: its owner has removed it.
    :raises Unreadable: it can't be read.
    """
    try:
        # A file of this process is known to be sound. Opening it here and closing the
        # descriptor would release this process's locks on it.
        holder = holder_of(path)
        if holder != os.getpid() and not can_hold_events(path):
            yield None
            return
        if holder is None and not again:
            check_wal(path)
        with closing(Journal.open(path, read_only=True)) as journal:
            yield journal
    except READ_ERRORS as error:
        if os.path.lexists(path):
            raise Unreadable(path, explain_read_error(error)) from error
        # Its owner has just removed it, so what was read from it is void.
        raise Gone from error


def explain_read_error(error: Exception) -> str:
    """Why a file can't be read, with the cure."""
    if isinstance(error, NewerVersion):
        return f"{error}: upgrade the library here as well"
    if isinstance(error, ForeignFile):
        return str(error)
    if is_damage(error):
        return (
            f"it is damaged ({error}): 'flask events flush' (or 'adopt', if it is left"
            " alone) delivers its intact events and quarantines it"
        )
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return f"another program uses it ({error}): end that one, which 'fuser' names"
    return f"reading failed ({error}): try again"


def _reports(paths: Iterable[Path]) -> list[Report]:
    found = (report(path) for path in paths)
    return [report for report in found if report is not None]


def _size(path: Path) -> int:
    size = 0
    # The "-shm" file contains no data; it is SQLite's shared memory.
    for suffix in ("", *SUFFIXES[:1]):
        with suppress(OSError):
            size += os.lstat(f"{path}{suffix}").st_size
    return size


def _events(
    path: Path, problems: list[Unreadable], wanted: Filter, known: KnownRefusals
) -> Iterator[Found]:
    owner, number = owner_of(path), -1
    while True:
        try:
            with reading(path, again=number >= 0) as journal:
                rows = journal and journal.rows_after(number, _PAGE, wanted, known.of)
        except Gone:
            return
        except Unreadable as error:
            problems.append(error)
            return
        if not rows:
            return
        number = rows[-1][0]
        yield from _found(path, owner, rows, problems, known)


def _events_with(
    path: Path, ids: list[str], problems: list[Unreadable], known: KnownRefusals
) -> list[Found]:
    owner = owner_of(path)
    found: list[Found] = []
    for start in range(0, len(ids), _PAGE):
        try:
            with reading(path, again=start > 0) as journal:
                page = ids[start : start + _PAGE]
                rows = journal.rows_with(page) if journal else []
        except Gone:
            return []
        found += _found(path, owner, rows, problems, known)
    return found


def _found(
    path: Path,
    owner: Owner,
    rows: Sequence[tuple[Any, ...]],
    problems: list[Unreadable],
    known: KnownRefusals,
) -> Iterator[Found]:
    for row in rows:
        try:
            stored = read_row(row)
        except DamagedRow as error:
            problems.append(Unreadable(path, str(error)))
            continue
        event, is_dead = stored.event, stored.dead is not None
        refusal = None if is_dead else known.of(event.id, event.target)
        yield Found(path, owner, stored, refusal)
