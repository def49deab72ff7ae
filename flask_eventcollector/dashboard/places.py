"""All that waits, as far as this process can see it."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from ..app_state import AppState
from ..backlog.backlog import Backlog, Status, Waiting
from ..backlog.held import FoundHere, Held
from ..backlog.opening import Inaccessible, open_backlog
from ..stores.filter import Filter
from ..stores.spool.admin.changes import Changed, Notify
from ..stores.spool.admin.reading import Unreadable
from ..stores.spool.control import ControlRequest
from ..stores.sums import TargetSum, summed

Shown: TypeAlias = "Waiting | FoundHere"


class Places(NamedTuple):
    """Where events wait. What can't be read is added to *problems*."""

    problems: list[Unreadable]
    #: ``None``: there is no spool and no outbox.
    backlog: Backlog | None
    #: ``None``: this process has not handled any event.
    held: Held | None
    #: The process whose memory alone is known, this one; ``None``: there is a spool,
    #: which has the events of all.
    memory_of: int | None = None

    def status(self) -> Status:
        """How much waits where, but for what is in memory."""
        return Status() if self.backlog is None else self.backlog.status()

    def sums_by_target(self) -> list[TargetSum]:
        """What waits for each target, those with the most events first."""
        sums = [] if self.held is None else self.held.sums_by_target()
        if self.backlog is not None:
            sums += self.backlog.sums_by_target(self.problems)
        return summed(sums)

    def events(self, wanted: Filter) -> Iterator[Shown]:
        """The *wanted* events, in the order in which they were enqueued."""
        found: list[Iterable[Shown]] = []
        if self.held is not None:
            found.append(self.held.events(wanted))
        if self.backlog is not None:
            found.append(self.backlog.events(self.problems, wanted))
        return heapq.merge(*found, key=lambda one: one.event.enqueued_at)

    def with_ids(self, ids: Sequence[str]) -> list[Shown]:
        """The events with *ids*. An event may be in several places."""
        found: list[Shown] = []
        if self.held is not None:
            found += self.held.with_ids(ids)
        if self.backlog is not None:
            found += self.backlog.with_ids([*ids], self.problems)
        return found

    def ids_from(self, prefix: str) -> set[str]:
        """The ids that start with *prefix*."""
        found = set() if self.held is None else self.held.ids_from(prefix)
        return found if self.backlog is None else found | self.backlog.ids_from(prefix)

    def change(
        self, request: ControlRequest, found: Sequence[Shown], notify: Notify
    ) -> Changed:
        """Apply *request* to the *found* events, which are all in one place.

        :raises Gone: the file was removed, since its events were delivered.
        :raises Unreadable: the file or the table can't be changed.
        """
        waiting = [one for one in found if not isinstance(one, FoundHere)]
        if self.backlog is not None and waiting:
            return self.backlog.change(request, waiting, notify)
        here = [one.event.id for one in found if isinstance(one, FoundHere)]
        if self.held is None:
            return Changed(None, [], here)
        return self.held.change(request._replace(ids=here))


@contextmanager
def open_places(state: AppState) -> Iterator[Places]:
    """Where the app's events wait; connections are closed after the block.

    Starts nothing in this process.
    """
    delivery = state.delivery_if_used()
    alone = os.getpid() if state.spool_folder() is None else None
    places = Places([], None, None if delivery is None else Held(delivery), alone)
    try:
        places = places._replace(backlog=open_backlog(state))
    except Inaccessible as error:
        places.problems.extend(error.unread)
    try:
        yield places
    finally:
        if places.backlog is not None:
            places.backlog.close()
