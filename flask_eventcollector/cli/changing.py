"""To retry and to purge: in the file of a dead process, or by a living one."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ..backlog.folder import Claim, claim_orphan, maker_of, why_not_ours
from ..backlog.journal import Journal, NewerVersion, was_begun
from ..backlog.orphan import adopted_entry
from ..backlog.remote import Wish, ask, is_pending, take_back
from ..backlog.rows import DamagedRow, StoredEvent, read_row, row_of
from ..backlog.wal import check_wal
from ..entries import Kind, News, State
from .reading import Gone, Owner, Unreadable, owner_of, reading, why_unreadable

#: Seconds that a living process has for what it is asked. It looks once a second.
PATIENCE = 5.0
_POLL = 0.05
#: Rows that are read and written at a time.
_PAGE = 200

Tell = Callable[[Sequence[News]], None]


class Changed(NamedTuple):
    """What became of a wish in one file."""

    owner: Owner
    #: The ids of the events that followed, and of those that did not.
    done: list[str]
    left: list[str]


def change(path: Path, wish: Wish, tell: Tell) -> Changed:
    """Do *wish* in the file *path*, or let its process do it.

    :raises Unreadable: the file is damaged, or can't be written.
    """
    claim = claim_orphan(path)
    try:
        if claim is None:
            return _ask(path, wish)
        owner = Owner(maker_of(path), False)
        done = _edit(claim, wish, tell)
    except (OSError, sqlite3.Error, NewerVersion) as error:
        raise Unreadable(f"{path.name}: {why_unreadable(error)}") from error
    return Changed(owner, done, [id for id in wish.ids if id not in set(done)])


# A file whose process is dead: it is ours as long as we hold its lock.


def _edit(claim: Claim, wish: Wish, tell: Tell) -> list[str]:
    done: list[str] = []
    act = {"retry": _retry, "purge": _purge}[wish.what]
    with _opened(claim) as journal:
        for page in _pages(wish.ids):
            stored = [s for row in journal.rows_with(page) if (s := _whole(row))]
            done += act(journal, stored, tell)
    return done


def _retry(journal: Journal, events: list[StoredEvent], tell: Tell) -> list[str]:
    rows = []
    for stored in events:
        if stored.dead is not None:
            entry = adopted_entry(stored)
            entry.state = State.RETAINED
            rows.append(row_of(entry, stored.number))
    journal.write(rows)
    return [stored.event.id for stored in events if stored.dead is not None]


def _purge(journal: Journal, events: list[StoredEvent], tell: Tell) -> list[str]:
    journal.write((), [stored.number for stored in events])
    tell([News(Kind.DROPPED, stored.event, "purged") for stored in events])
    return [stored.event.id for stored in events]


@contextmanager
def _opened(claim: Claim) -> Iterator[Journal]:
    """The file of a dead process, to be written; an empty one is removed at last."""
    empty = False
    try:
        reason = why_not_ours(claim.path)
        if reason:
            raise Unreadable(f"{claim.path.name}: {reason}")
        if not was_begun(claim.path):
            raise Gone
        check_wal(claim.path)
        journal = Journal.open(claim.path)
        try:
            journal.check()
            yield journal
            empty = journal.is_empty()
        finally:
            journal.close()
    finally:
        if empty:
            claim.remove()
        else:
            claim.release()


def _whole(row: tuple[object, ...]) -> StoredEvent | None:
    try:
        return read_row(row)
    except DamagedRow:
        return None


# A file whose process lives: only that process writes it.


def _ask(path: Path, wish: Wish) -> Changed:
    owner = owner_of(path)
    deadline = time.monotonic() + PATIENCE
    while not ask(path, wish):
        if not _pause(deadline):
            return Changed(owner, [], list(wish.ids))
    try:
        while is_pending(path) and path.exists() and _pause(deadline):
            pass
    finally:
        # Nobody is to do later what was told to have failed.
        take_back(path)
    left = _left(path, wish)
    while left and _pause(deadline):
        left = _left(path, wish)
    return Changed(owner, [id for id in wish.ids if id not in left], sorted(left))


def _left(path: Path, wish: Wish) -> set[str]:
    """The ids of the events that have not followed."""
    left: set[str] = set()
    for page in _pages(wish.ids):
        try:
            with reading(path) as journal:
                rows = journal.rows_with(page) if journal else []
        except Gone:
            return set()
        stored = [s for row in rows if (s := _whole(row))]
        left |= {
            s.event.id for s in stored if wish.what == "purge" or s.dead is not None
        }
    return left


def _pause(deadline: float) -> bool:
    """Wait a moment; returns whether there is still time."""
    time.sleep(_POLL)
    return time.monotonic() < deadline


def _pages(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _PAGE):
        yield ids[start : start + _PAGE]
