"""Exports events as lines of JSON, and imports them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from ....messages.wording import counted
from ...progress import OnProgress
from ..folder import Folder
from ..orphan import adopted_entry
from ..rows import StoredEvent, row_of
from .adopting import new_file
from .changes import Changed
from .lines import InvalidLine, line_of, read_line
from .reading import READ_ERRORS, Gone, Unreadable, explain_read_error

#: How many wrong lines are named.
_MOST_ERRORS = 10

#: The ids of events, with their numbers there, by the places that they are in.
Ids = dict[str, dict[str, int]]
#: Removes events of one place; raises ``Gone`` or ``Unreadable``.
Purge = Callable[[str, Mapping[str, int]], Changed]


class Exported(Protocol):
    """An event to export."""

    @property
    def place(self) -> str:
        """Where it is stored."""

    @property
    def stored(self) -> StoredEvent:
        """As it is in a file of the spool."""


class NotReplaced(Exception):
    """There is such a file already."""


@contextmanager
def complete_file(path: Path, *, replace: bool) -> Iterator[IO[bytes]]:
    """A new file for its owner only, named *path* once it is complete and on disk.

    If the block raises, or the process is killed, there is none.

    :param replace: whether it may take the place of an existing file.
    :raises NotReplaced: there is one.
    :raises OSError: it can't be written.
    """
    if os.path.lexists(path) and not (replace and path.is_file()):
        raise NotReplaced
    unnamed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        _name(unnamed, path, replace)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(unnamed)


def _name(unnamed: Path, path: Path, replace: bool) -> None:
    if replace:
        os.replace(unnamed, path)
    else:
        try:
            # Unlike a rename, this fails if another export was faster.
            os.link(unnamed, path)
        except FileExistsError:
            raise NotReplaced from None
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def export(found: Iterable[Exported], file: IO[bytes], on_progress: OnProgress) -> Ids:
    """Write each event of *found* once; return where they are."""
    ids: Ids = {}
    written: set[str] = set()
    for item in found:
        stored = item.stored
        id = stored.event.id
        # An event may be in two places.
        if id not in written:
            file.write(line_of(stored))
            written.add(id)
        ids.setdefault(item.place, {})[id] = stored.number
        on_progress(1)
    return ids


def remove(ids: Ids, purge: Purge, left: set[str]) -> list[Unreadable]:
    """Remove the events with *ids*, as a purge does.

    What was delivered in the meantime counts as removed.

    :param left: gets the ids of the events that are not removed.
    :returns: the places that can't be changed.
    """
    problems: list[Unreadable] = []
    for place, here in ids.items():
        try:
            changed = purge(place, here)
        except Gone:
            continue
        except Unreadable as error:
            left.update(here)
            problems.append(error)
            continue
        if changed.left:
            left.update(changed.left)
            reason = f"{changed.owner} did not remove them: they may be in flight"
            problems.append(Unreadable(place, reason))
    return problems


class Imported(NamedTuple):
    """The result of an import."""

    events: int
    #: How many were left out, since an event of the same id is on disk.
    skipped: int


class InvalidLines(Exception):
    """The lines that are wrong, by their numbers from 1: what, and the cure."""

    def __init__(self, errors: dict[int, str]) -> None:
        verb = "is" if len(errors) == 1 else "are"
        super().__init__(f"{counted(len(errors), 'line')} {verb} wrong")
        self.errors = errors


def import_lines(
    lines: Iterable[bytes],
    known: set[str],
    write: Callable[[Iterator[StoredEvent]], object],
    on_progress: OnProgress,
) -> Imported:
    """Add the events of *lines*, all of them or none.

    :param known: the ids of events that are skipped.
    :param write: adds events, or none if their iterator raises.
    :param on_progress: called with the bytes of each line.
    :raises InvalidLines: nothing was imported.
    """
    reader = _Lines(lines, known, on_progress)
    write(reader.read())
    return Imported(reader.events, reader.skipped)


def add(folder: Folder, events: Iterable[StoredEvent]) -> None:
    """Write *events* to a new file of *folder*, all of them or none.

    The app's next process that scans for files adopts it. Its events count as possible
    duplicates.

    :raises Unreadable: nothing was added, since the folder can't be written.
    """
    try:
        with new_file(folder) as journal:
            # One transaction, so that all of them are on disk, or none.
            journal.write(row_of(adopted_entry(s), s.number) for s in events)
    except READ_ERRORS as error:
        raise Unreadable(folder.path, explain_read_error(error)) from error


class _Lines:
    """Turns lines into events, without those of *known* ids."""

    def __init__(
        self, lines: Iterable[bytes], known: set[str], on_progress: OnProgress
    ) -> None:
        self._lines = lines
        self._known = known
        self._on_progress = on_progress
        self.events = self.skipped = 0

    def read(self) -> Iterator[StoredEvent]:
        """The events; at the end, raises :class:`InvalidLines` if a line is wrong."""
        errors: dict[int, str] = {}
        for number, line in enumerate(self._lines, 1):
            self._on_progress(len(line))
            try:
                yield from self._event(line, number)
            except InvalidLine as error:
                errors[number] = str(error)
                if len(errors) == _MOST_ERRORS:
                    break
        if errors:
            raise InvalidLines(errors)

    def _event(self, line: bytes, number: int) -> Iterator[StoredEvent]:
        if not line.strip():
            return
        stored = read_line(line, number)
        if stored.event.id in self._known:
            self.skipped += 1
            return
        self._known.add(stored.event.id)
        self.events += 1
        yield stored
