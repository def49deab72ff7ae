"""What is known of this moment: the processes, and where an event may be."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from ..monitoring.history.reader import History
from ..monitoring.history.records import Counts, Line
from ..stores.spool.admin.reading import Unreadable
from .backlog import Backlog
from .outbox import OutboxRows


class Teller(NamedTuple):
    """The process that has told the last of an event."""

    pid: int
    #: As in :class:`.Line`.
    name: str
    is_running: bool
    #: When it has written anything last, in seconds since 1970.
    heard_at: float


class Outbox(NamedTuple):
    """Who sends the rows of the outbox."""

    needs_relay: bool
    #: Which relay is active; ``None``: none is.
    leader: str | None


class Present(NamedTuple):
    """What is known of this moment."""

    #: What the running processes have counted; ``None``: they do not write it down.
    counts: Sequence[Counts] | None = None
    teller: Teller | None = None
    #: ``None``: there is none, or it can't be read.
    outbox: Outbox | None = None
    #: Whether each place was looked into in which an event may be.
    is_whole: bool = True


NOTHING_KNOWN = Present()


def present_of(
    lines: Sequence[Line],
    history: History | None,
    backlog: Backlog | None,
    problems: Sequence[Unreadable],
) -> Present:
    """What is known of this moment, for the event with these *lines*.

    :param problems: what could not be read of the places in which it may be.
    """
    present = Present(is_whole=not problems)
    if history is not None:
        with suppress(OSError):
            present = present._replace(
                counts=history.counts(), teller=_teller(history, lines)
            )
    if backlog is None or backlog.outbox is None:
        return present
    return present._replace(outbox=_outbox(backlog.outbox))


def _teller(history: History, lines: Sequence[Line]) -> Teller | None:
    if not lines:
        return None
    last = lines[-1]
    counted = [c.at for c in history.last_counts() if c.process == last.process]
    heard_at = max([last.at, *counted])
    is_running = history.is_running(last.process)
    return Teller(last.pid, last.process, is_running, heard_at)


def _outbox(rows: OutboxRows) -> Outbox | None:
    try:
        return Outbox(rows.needs_relay, rows.leader())
    except Unreadable:
        # To look for the event has failed, too.
        return None


def not_searched(backlog: Backlog) -> list[Unreadable]:
    """The files in which an event may be that is nowhere else."""
    left = [file.path for file in backlog.left_alone().files]
    return [*backlog.unread(), *(Unreadable(path, _LEFT_ALONE) for path in left)]


_LEFT_ALONE = (
    "not searched, since its events are for another broker, or of an app without a"
    " process: see 'flask events status'"
)
