"""The events of one database transaction, until it ends."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..delivery.delivery import Delivery
from ..delivery.entries import NOT_COMMITTED, ROLLED_BACK, Entry
from ..delivery.process import current_process

_numbers = itertools.count()


class _Level:
    """A savepoint of a transaction; the lowest one is the transaction itself."""

    def __init__(self, key: object) -> None:
        #: Stands for it; does not keep the session alive.
        self.key = weakref.ref(key)
        #: Its events, by the delivery that will publish them.
        self.entries: dict[Delivery, list[Entry]] = {}
        self.has_written = False
        self.is_committed = False
        self.is_rolled_back = False

    @property
    def is_in_progress(self) -> bool:
        """Whether the database can still commit or roll it back."""
        return not (self.is_committed or self.is_rolled_back)

    def absorb(self, ended: _Level) -> None:
        """Take over what a savepoint leaves to what encloses it."""
        for delivery, entries in ended.entries.items():
            self.entries.setdefault(delivery, []).extend(entries)
        self.has_written |= ended.has_written


class Transaction:
    """A transaction of a session, with its savepoints and their events.

    Its events are also in their collectors: it only takes back, by a discard, what was
    rolled back. Events that a collector publishes before the end are held back here,
    and published by the commit.

    The keys are the session's own objects for the transaction and for each savepoint.
    A session is used by one thread at a time, and so is this.

    :param unflushed: whether the session has changes that were not sent yet.
    :param writes_events: whether its commit writes its events into an outbox.
    """

    def __init__(
        self, key: object, unflushed: Callable[[], bool], *, writes_events: bool = False
    ) -> None:
        self.writes_events = writes_events
        #: Transactions that began later have a higher one.
        self.number = next(_numbers)
        self._unflushed = unflushed
        self._levels = [_Level(key)]
        self._process = current_process()
        #: What collectors have published, by delivery.
        self._held: dict[Delivery, list[Entry]] = {}
        #: Whether its events are written in it.
        self.has_outbox = False
        #: Whether they are, and its own commit has begun.
        self.is_sealed = False
        #: The connections that have sent changes.
        self.changed = weakref.WeakSet[Any]()

    def is_of(self, key: object) -> bool:
        """Whether *key* stands for the transaction, and it has not ended."""
        return not self.is_over and self._levels[0].key() is key

    # What collectors need.

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or belongs to the process that forked this one."""
        return not self._levels or self._process != current_process()

    @property
    def is_in_progress(self) -> bool:
        """Whether an event that is enqueued now belongs to it."""
        return not self.is_over and any(level.is_in_progress for level in self._levels)

    def has_written(self) -> bool:
        """Whether a rollback would take something back, if only an unflushed change."""
        innermost = self._levels[-1]
        if not innermost.has_written:
            innermost.has_written = self._unflushed()
        return any(level.has_written for level in self._levels)

    def place(self, delivery: Delivery) -> list[Entry]:
        """The list for an event that belongs to it, in the innermost savepoint."""
        level = next(level for level in reversed(self._levels) if level.is_in_progress)
        return level.entries.setdefault(delivery, [])

    def hold_back(self, delivery: Delivery, entries: Sequence[Entry]) -> list[Entry]:
        """Take over those of *entries* whose publication depends on its end.

        A transaction that has written nothing does not hold anything back. One whose
        session is gone has been rolled back by the connection's pool.
        """
        if self._is_lost:
            self._end_lost()
        elif self.has_written():
            mine = {
                e for level in self._levels for e in level.entries.get(delivery, ())
            }
            found = [entry for entry in entries if entry in mine]
            if found:
                self._held_of(delivery).extend(found)
            return found
        return []

    def _held_of(self, delivery: Delivery) -> list[Entry]:
        if delivery not in self._held:
            self._held[delivery] = held = list[Entry]()
            # Its session may be deleted before it has ended.
            delivery.watch(self._levels[0].key(), held, NOT_COMMITTED)
        return self._held[delivery]

    # What the session reports.

    def prepare_to_write(self, begin: Callable[[Any], object]) -> None:
        """Its commit may begin before its savepoints have ended.

        :param begin: has the database of a table take part in the transaction.
        """
        self.has_outbox = True
        levels = (level.entries.items() for level in self._levels)
        for delivery in {d for level in levels for d, entries in level if entries}:
            if delivery.outbox is not None:
                begin(delivery.outbox.table)

    def write_events(self, connect: Callable[[Any], Any]) -> None:
        """Write its events into the outbox, by the transaction itself.

        :param connect: returns the session's connection for a table; ``None``: they are
            not written there.
        """
        self.has_outbox = True
        for level in self._levels:
            for delivery, entries in level.entries.items():
                if delivery.outbox is not None:
                    # Those of one level are committed together, or not at all.
                    delivery.coalesce(entries)
                    delivery.label(entries)
                    delivery.outbox.write(connect, entries)

    def begin_savepoint(self, key: object) -> None:
        """A savepoint begins."""
        if self._level(key) is None:
            self._levels.append(_Level(key))

    def note_write(self, connection: Any = None) -> None:
        """A change was made, or one that was not sent yet was undone.

        :param connection: which sends it, if it is sent.
        """
        if self._levels:
            self._levels[-1].has_written = True
        if connection is not None:
            self.changed.add(connection)

    def note_commit(self, key: object) -> None:
        """The database has committed, or released the savepoint of, *key*."""
        if (level := self._level(key)) is not None:
            level.is_committed = True

    def note_rollback(self, key: object) -> None:
        """The database has rolled *key* back."""
        if (level := self._level(key)) is not None:
            level.is_rolled_back = True

    def end(self, key: object) -> None:
        """The transaction or the savepoint of *key* has ended, if it is the innermost.

        Its events are discarded if it was rolled back. Otherwise, those of a savepoint
        belong to what encloses it, and those that were held back are published.
        """
        level = self._level(key)
        if self.is_over or level is None or level is not self._levels[-1]:
            return
        if level.has_written and not level.is_committed:
            _discard(level.entries, _reason(level))
        elif len(self._levels) > 1:
            self._levels[-2].absorb(level)
        # Afterwards: interrupted before, it still holds its events back.
        self._levels.pop()
        if not self._levels:
            if self.has_outbox and level.is_committed:
                _leave_to_outbox(level.entries)
            self._publish_held()

    def _level(self, key: object) -> _Level | None:
        return next((level for level in self._levels if level.key() is key), None)

    def _publish_held(self) -> None:
        """Publish what was held back, except what was discarded."""
        while self._held:
            delivery, entries = self._held.popitem()
            delivery.coalesce(entries)
            # A commit does not wait for the broker, but for the disk.
            delivery.publish(entries, 0)

    @property
    def _is_lost(self) -> bool:
        """Whether its session was deleted before it had ended."""
        return bool(self._levels) and self._levels[0].key() is None

    def _end_lost(self) -> None:
        if any(level.has_written for level in self._levels):
            for level in self._levels:
                _discard(level.entries, NOT_COMMITTED)
        self._levels.clear()


def _reason(level: _Level) -> str:
    # A session that is closed while an exception is handled was not forgotten.
    if level.is_rolled_back or sys.exc_info()[0] is not None:
        return ROLLED_BACK
    return NOT_COMMITTED


def _leave_to_outbox(found: Mapping[Delivery, list[Entry]]) -> None:
    for delivery, entries in found.items():
        if delivery.outbox is not None:
            delivery.outbox.committed(entries)


def _discard(found: Mapping[Delivery, list[Entry]], reason: str) -> None:
    for delivery, entries in found.items():
        delivery.discard(entries, reason)
