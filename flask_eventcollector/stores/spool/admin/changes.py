"""Retries, purges or redirects events in spool files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ....delivery.entries import PURGED, Notice, NoticeKind
from ...progress import OnProgress, ignore
from ..control import ControlRequest, is_pending, submit, withdraw
from ..folder import Claim, claim_orphan, holder_of
from ..journal import Journal
from ..orphan import living_row, open_sound
from ..rows import StoredEvent, intact
from .reading import (
    READ_ERRORS,
    Gone,
    Owner,
    Report,
    Unreadable,
    explain_read_error,
    owner_of,
    reading,
)

#: Seconds that a running process has to apply a request. It checks once a second, and
#: more often after the first.
PATIENCE = 5.0
_POLL = 0.05
#: Rows that are read and written at a time, and events per request: while a process
#: applies one, nobody can publish there. SQLite before 3.32 takes at most 999 values in
#: a query: https://www.sqlite.org/limits.html#max_variable_number
_PAGE = 900

#: A request that changes nothing: who applies it is running.
_PING = ControlRequest("", [])

Notify = Callable[[Sequence[Notice]], None]


class Changed(NamedTuple):
    """The result of a request for one file, or for the outbox."""

    #: ``None``: the rows of the outbox belong to all processes.
    owner: Owner | None
    #: The ids of the events that were changed, and of those that were not.
    done: list[str]
    left: list[str]


def change(
    path: Path,
    request: ControlRequest,
    notify: Notify,
    on_progress: OnProgress = ignore,
) -> Changed:
    """Apply *request* to the file *path*, or have its process apply it.

    :param on_progress: called with the number of events in each part of it.
    :raises Gone: the file was removed, since its events were delivered.
    :raises Unreadable: the file is damaged or can't be written.
    """
    owner, left = owner_of(path), request.ids
    try:
        claim = claim_orphan(path)
        if claim is None and not path.exists():
            raise Gone
        if claim is None:
            left = _submit(path, request, on_progress)
            # Its process, which may be another command, may have ended in between.
            claim = claim_orphan(path) if left else None
        if claim is not None:
            _edit(claim, request._replace(ids=left), notify, on_progress)
            owner, left = owner._replace(alive=False), []
    except READ_ERRORS as error:
        raise Unreadable(path, explain_read_error(error)) from error
    not_done = set(left)
    return Changed(owner, [id for id in request.ids if id not in not_done], left)


# The file of a dead process, which belongs to this process while it holds the lock.


def _edit(
    claim: Claim, request: ControlRequest, notify: Notify, on_progress: OnProgress
) -> None:
    with _opened(claim) as journal:
        for page in _pages(request.ids):
            # Missing events were delivered or purged in the meantime.
            events = intact(journal.rows_with(page))
            if request.action == "retry":
                _retry(journal, events)
            elif request.action == "redirect":
                _redirect(journal, events, request.queue)
            else:
                _purge(journal, events, notify)
            on_progress(len(page))


def _retry(journal: Journal, events: list[StoredEvent]) -> None:
    journal.write([living_row(stored) for stored in events if stored.dead is not None])


def _redirect(journal: Journal, events: list[StoredEvent], queue: str) -> None:
    journal.write([living_row(stored, queue) for stored in events])


def _purge(journal: Journal, events: list[StoredEvent], notify: Notify) -> None:
    journal.write((), [stored.number for stored in events])
    notify([Notice(NoticeKind.DROPPED, stored.event, PURGED) for stored in events])


@contextmanager
def _opened(claim: Claim) -> Iterator[Journal]:
    """Open the file of a dead process for writing; remove it if it ends up empty."""
    empty = False
    try:
        journal = open_sound(claim.path)
        if journal is None:
            raise Gone
        try:
            yield journal
            empty = journal.is_empty()
        finally:
            journal.close()
    finally:
        if empty:
            claim.remove()
        else:
            claim.release()


# The file of a running process, which only that process writes to.


def unresponsive(files: Iterable[Report]) -> dict[int, str]:
    """Ask the running processes of *files* for a sign of life.

    Waits at most :data:`PATIENCE` seconds, about one if all of them respond. Returns
    those that did not, with the reason.
    """
    paths = {file.owner.process: file.path for file in files}
    if not paths:
        return {}
    with ThreadPoolExecutor(len(paths)) as pool:
        reasons = dict(zip(paths, pool.map(_silence, paths.values()), strict=True))
    return {process: reason for process, reason in reasons.items() if reason}


def _silence(path: Path) -> str:
    owner = owner_of(path)
    try:
        if _is_applied(path, _PING):
            return ""
    except OSError as error:
        return explain_read_error(error)
    return no_response(owner)


def no_response(owner: Owner) -> str:
    """Why a running process has not done what it was asked for."""
    return (
        f"no response from {owner} within {PATIENCE:.0f} s: its events stay until it"
        " continues or ends"
    )


def _submit(path: Path, request: ControlRequest, on_progress: OnProgress) -> list[str]:
    """Have the owner apply *request*; returns the ids of unchanged events."""
    asked = 0
    for page in _pages(request.ids):
        if not _is_applied(path, request._replace(ids=page)):
            break
        asked += len(page)
        on_progress(len(page))
    applied = request._replace(ids=request.ids[:asked])
    deadline = time.monotonic() + PATIENCE
    left = _left(path, applied)
    while left and _pause(deadline):
        left = _left(path, applied)
    return sorted(left) + request.ids[asked:]


def _is_applied(path: Path, request: ControlRequest) -> bool:
    """Submit *request* to the owner of *path*; returns whether it was applied."""
    deadline = time.monotonic() + PATIENCE
    while not submit(path, request):
        # Another command's request is pending.
        if not _pause(deadline):
            return False
    try:
        while is_pending(path, request):
            if not path.exists():
                return True
            if holder_of(path) is None or not _pause(deadline):
                return False
    finally:
        # A request that was reported as failed must not be applied later.
        withdraw(path, request)
    return True


def _left(path: Path, request: ControlRequest) -> set[str]:
    """The ids of the events that are unchanged."""
    left: set[str] = set()
    for page in _pages(request.ids):
        try:
            with reading(path) as journal:
                rows = journal.rows_with(page) if journal else []
        except Gone:
            return set()
        left |= {s.event.id for s in intact(rows) if _is_left(s, request)}
    return left


def _is_left(stored: StoredEvent, request: ControlRequest) -> bool:
    """Whether *request* was not applied to an event that is on disk."""
    if request.action == "redirect":
        # Since then, the new queue may have refused it for good.
        return stored.event.target_queue != request.queue
    return request.action == "purge" or stored.dead is not None


def _pause(deadline: float) -> bool:
    """Sleep briefly; returns whether there is time left."""
    time.sleep(_POLL)
    return time.monotonic() < deadline


def _pages(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _PAGE):
        yield ids[start : start + _PAGE]
