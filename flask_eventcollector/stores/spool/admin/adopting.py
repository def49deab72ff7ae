"""Moves the events of another app's or broker's file into one of this app's files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..files import close
from ..folder import Folder, claim_orphan
from ..journal import Journal, is_damage
from ..orphan import adopted_entry, open_sound
from ..recovery.salvage import intact_rows
from ..rows import StoredEvent, intact, row_of
from .reading import READ_ERRORS, Unreadable, explain_read_error, owner_of

#: Rows that are moved in one transaction.
_PAGE = 1_000


class Adopted(NamedTuple):
    """The result for one file."""

    path: Path
    #: How many events were moved.
    events: int
    #: Where the file is now, since it was damaged; ``None``: it is gone.
    quarantined: Path | None


def adopt(path: Path, folder: Folder) -> Adopted:
    """Move the events of the dead process's file *path* into a new file of *folder*.

    The app's next process that scans for files finds it. An event is erased only once
    it is on disk in the new file. If this is interrupted, up to 1 000 events are in
    both files, and the others are still in *path*.

    :raises Unreadable: a process uses the file, or it can't be read or moved.
    """
    claim = claim_orphan(path)
    if claim is None:
        raise Unreadable(
            path,
            f"{owner_of(path)} uses it, and sends its events itself: stop that process"
            " first",
        )
    try:
        with new_file(folder) as new:
            is_damaged = _move(claim.path, new)
            waiting, dead, _ = new.sums()
        if is_damaged:
            return Adopted(path, waiting + dead, claim.quarantine())
        claim.remove()
        return Adopted(path, waiting + dead, None)
    except BaseException as error:
        claim.release()
        if isinstance(error, READ_ERRORS):
            raise Unreadable(path, explain_read_error(error)) from error
        raise


@contextmanager
def new_file(folder: Folder) -> Iterator[Journal]:
    """A new file of *folder*, which is left to the app's next process."""
    folder.make()
    claim = folder.claim_new()
    try:
        journal = Journal.create(claim.path, str(folder.destination), full_sync=True)
    except BaseException:
        claim.remove()
        raise
    try:
        yield journal
    finally:
        close(claim, journal)


def _move(path: Path, new: Journal) -> bool:
    """Move all intact events; returns whether the file is damaged."""
    try:
        return _move_sound(path, new)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    for page in _pages(intact_rows(path)):
        new.write(page)
    return True


def _move_sound(path: Path, new: Journal) -> bool:
    journal = open_sound(path, full_sync=True)
    if journal is None:
        return False
    with closing(journal):
        for page in _pages(_rows(journal)):
            new.write(page)
            journal.write((), [row[0] for row in page])
        return not journal.is_empty()


def _rows(journal: Journal) -> Iterator[StoredEvent]:
    """The intact rows, which may be erased meanwhile."""
    last = -1
    while rows := journal.rows_after(last, _PAGE):
        last = rows[-1][0]
        yield from intact(rows)


def _pages(events: Iterator[StoredEvent]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows for *events*, as many as go into one transaction."""
    while page := [row_of(adopted_entry(s), s.number) for s in islice(events, _PAGE)]:
        yield page
