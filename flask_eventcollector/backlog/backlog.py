"""All that waits: the events in the spool's files, and those in the outbox."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..stores.filter import ALL, Filter
from ..stores.progress import OnProgress, ignore
from ..stores.spool.admin.changes import Changed, Notify, change
from ..stores.spool.admin.reading import (
    Found,
    Report,
    Unreadable,
    events_in,
    events_with,
    ids_from,
    left_alone,
    quarantined,
    reports,
    reports_of_apps,
    reports_of_others,
    sums_by_target,
)
from ..stores.spool.admin.transferring import Imported, add, import_lines
from ..stores.spool.control import ControlRequest
from ..stores.spool.folder import Folder
from ..stores.spool.rows import StoredEvent
from ..stores.sums import TargetSum, summed
from .outbox import FoundRow, OutboxRows

if TYPE_CHECKING:
    from ..stores.outbox.admin import Counts

#: An event that waits, or is dead.
Waiting: TypeAlias = "Found | FoundRow"


class Status(NamedTuple):
    """What waits, in numbers."""

    #: The files of the spool.
    files: Sequence[Report] = ()
    #: Those for another broker.
    others: Sequence[Report] = ()
    #: Those of apps without a process, by name.
    apps: Mapping[str, Sequence[Report]] = {}
    #: The rows of the outbox; ``None``: there is none, or it can't be read.
    rows: Counts | None = None
    #: Which relay is active; ``None``: none is, or it is not known.
    leader: str | None = None
    #: Whether nobody sends the rows, since only a relay does, and none is active.
    lacks_relay: bool = False
    #: Those of apps without a process, by name.
    strays: Mapping[str, Counts] = {}
    #: The files that no command reads.
    unread: Sequence[Unreadable] = ()
    #: Why the outbox can't be read.
    failures: Sequence[Unreadable] = ()

    @property
    def problems(self) -> list[Unreadable]:
        """What could not be read."""
        files = [file.problem for file in self._seen() if file.problem]
        return [*files, *self.unread, *self.failures]

    @property
    def total(self) -> int:
        """How many events are waiting or dead, as far as they can be read."""
        rows = 0 if self.rows is None else sum(self.rows[:4])
        return rows + sum(file.waiting + file.dead for file in self.files)

    @property
    def has_events(self) -> bool:
        """Whether events are waiting and due, or dead, or may be."""
        rows = [*self.strays.values(), *([self.rows] if self.rows else [])]
        has_rows = any(any(counts[:4]) for counts in rows)
        return has_rows or any(file.is_left for file in self._seen())

    @property
    def has_delayed(self) -> bool:
        """Whether events are delayed, in the files of this app or in the outbox."""
        rows = self.rows is not None and self.rows.delayed
        return bool(rows or any(file.delayed for file in self.files))

    @property
    def leaves_alone(self) -> bool:
        """Whether nobody sends events for another broker, or of another app."""
        has_rows = any(any(counts[:4]) for counts in self.strays.values())
        return has_rows or any(file.has_events for file in self._alone())

    def _seen(self) -> list[Report]:
        return [*self.files, *self._alone()]

    def _alone(self) -> list[Report]:
        # A running process with another broker sends its events itself.
        gone = [file for file in self.others if not file.owner.alive]
        return [*gone, *itertools.chain(*self.apps.values())]


class LeftAlone(NamedTuple):
    """Events that no process sends."""

    #: In files for another broker, or of apps without a process.
    files: Sequence[Report] = ()
    #: Rows of the outbox, by the names of the apps, which have no process.
    rows: Mapping[str, Counts] = {}
    #: The outbox's table.
    table: str = ""

    def __bool__(self) -> bool:
        return bool(self.files or self.rows)

    @property
    def places(self) -> list[str]:
        """The paths of the files, and the name of the table."""
        return [*(str(f.path) for f in self.files), *[self.table] * bool(self.rows)]


class Backlog(NamedTuple):
    """Where the app's events wait."""

    #: ``None``: there is no spool.
    folder: Folder | None
    #: ``None``: there is no outbox.
    outbox: OutboxRows | None = None
    #: Files that are not read, since there is no spool any more.
    strays: Sequence[Unreadable] = ()

    def status(self) -> Status:
        """How much waits where."""
        status = Status(unread=self.unread())
        if (folder := self.folder) is not None:
            files, others = reports(folder), reports_of_others(folder)
            status = status._replace(files=files, others=others)
            status = status._replace(apps=reports_of_apps(folder))
        if self.outbox is not None:
            try:
                rows, leader = self.outbox.counts(), self.outbox.leader()
                lacks_relay = self.outbox.needs_relay and leader is None
                status = status._replace(
                    rows=rows, leader=leader, lacks_relay=lacks_relay
                )
                status = status._replace(strays=self.outbox.strays())
            except Unreadable as error:
                status = status._replace(failures=[error])
        return status

    def events(
        self, problems: list[Unreadable], wanted: Filter = ALL
    ) -> Iterator[Waiting]:
        """The *wanted* events, in the order in which they were enqueued.

        :param problems: gets what can't be read.
        """
        problems += self.strays
        stores: list[Iterable[Waiting]] = []
        if self.folder is not None:
            stores.append(events_in(self.folder, problems, wanted))
        if self.outbox is not None:
            stores.append(_readable(self.outbox.events(wanted), problems))
        return heapq.merge(*stores, key=lambda found: found.event.enqueued_at)

    def sums_by_target(self, problems: list[Unreadable]) -> list[TargetSum]:
        """What waits for each target, those with the most events first.

        :param problems: gets what can't be read.
        """
        sums: list[TargetSum] = []
        if self.folder is not None:
            sums += sums_by_target(self.folder, problems)
        if self.outbox is not None:
            try:
                sums += self.outbox.sums_by_target()
            except Unreadable as error:
                problems.append(error)
        return summed(sums)

    def with_ids(self, ids: list[str], problems: list[Unreadable]) -> list[Waiting]:
        """The events with *ids*. An event may be in several places."""
        found: list[Waiting] = []
        if self.folder is not None:
            found += events_with(self.folder, ids, problems)
        if self.outbox is not None:
            try:
                found += self.outbox.with_ids(ids)
            except Unreadable as error:
                problems.append(error)
        return found

    def ids_from(self, prefix: str) -> set[str]:
        """The ids that start with *prefix*, as far as they can be read."""
        found = set[str]() if self.folder is None else ids_from(self.folder, prefix)
        if self.outbox is not None:
            # If it fails, so does the look-up of the whole ids, which tells of it.
            with suppress(Unreadable):
                found |= self.outbox.ids_from(prefix)
        return found

    def close(self) -> None:
        """Close the connections to the outbox."""
        if self.outbox is not None:
            self.outbox.close()

    def unread(self) -> list[Unreadable]:
        """The files that no command reads."""
        files = [] if self.folder is None else quarantined(self.folder)
        return [*self.strays, *files]

    def left_alone(self) -> LeftAlone:
        """The events that no process will adopt."""
        found = LeftAlone([] if self.folder is None else left_alone(self.folder))
        if self.outbox is not None:
            # If it fails, so does what else the command asks it for.
            with suppress(Unreadable):
                rows = self.outbox.strays()
                found = found._replace(rows=rows, table=self.outbox.name)
        return found

    @property
    def names(self) -> str:
        """What it consists of, for people."""
        spool = "the spool" * (self.folder is not None)
        return " or ".join(filter(None, [spool, "the outbox" * bool(self.outbox)]))

    def add(
        self,
        lines: Iterable[bytes],
        problems: list[Unreadable],
        on_progress: OnProgress,
    ) -> Imported:
        """Import *lines* into the outbox, or into the spool if there is none.

        :param problems: gets what can't be read, which may hold the same events.
        :raises InvalidLines: nothing was imported.
        :raises Unreadable: nothing was imported.
        """
        known: set[str] = set()
        write: list[Callable[[Iterable[StoredEvent]], object]] = []
        problems += self.unread()
        if self.folder is not None:
            known |= ids_from(self.folder, "", problems)
            write.append(partial(add, self.folder))
        if self.outbox is not None:
            known |= self.outbox.ids_from("")
            write.append(self.outbox.add)
        return import_lines(lines, known, write[-1], on_progress)

    def purge(
        self,
        place: str,
        numbers: Mapping[str, int],
        notify: Notify,
        on_progress: OnProgress = ignore,
    ) -> Changed:
        """Remove the events in *place*, whose ids have these *numbers* there.

        :raises Gone: the file was removed, since its events were delivered.
        :raises Unreadable: the file or the table can't be changed.
        """
        if self.outbox is not None and place == self.outbox.name:
            ids = self.outbox.purge([*numbers.values()], notify, on_progress)
            return Changed(None, ids, [])
        request = ControlRequest("purge", [*numbers])
        return change(Path(place), request, notify, on_progress)

    def change(
        self,
        request: ControlRequest,
        found: Sequence[Waiting],
        notify: Notify,
        on_progress: OnProgress = ignore,
    ) -> Changed:
        """Apply *request* to the *found* events, which are all in one place.

        :param on_progress: called with the number of events in each part of it.
        :raises Gone: the file was removed, since its events were delivered.
        :raises Unreadable: the file or the table can't be changed.
        """
        rows = [f for f in found if isinstance(f, FoundRow)]
        if rows and self.outbox is not None:
            return self.outbox.change(request, rows, notify, on_progress)
        (path,) = {f.path for f in found if isinstance(f, Found)}
        ids = [*dict.fromkeys(f.event.id for f in found)]
        return change(path, request._replace(ids=ids), notify, on_progress)


def _readable(
    events: Iterator[FoundRow], problems: list[Unreadable]
) -> Iterator[FoundRow]:
    try:
        yield from events
    except Unreadable as error:
        problems.append(error)
