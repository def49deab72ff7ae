"""With a backlog on disk, the disk agrees with the ledger."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from flask_eventcollector.delivery.disk_index import Write
from flask_eventcollector.delivery.entries import Entry, Row, State
from flask_eventcollector.events import Event, Target
from flask_eventcollector.stores.spool.orphan import adopted_entry
from flask_eventcollector.stores.spool.rows import StoredEvent
from tests.parts import make_event
from tests.test_ledger_machine import (
    MAX_BYTES,
    MAX_DEAD_EVENTS,
    MAX_EVENTS,
    QUEUES,
    SETTINGS,
    LedgerMachine,
)

#: More than the ledger ever holds.
ALL = 10 * MAX_EVENTS
#: Negative, so that no event that is not on disk is too young.
AT_ONCE = -1.0


class File:
    """The rows of one file, by their numbers."""

    def __init__(self) -> None:
        self.rows: dict[int, Entry] = {}
        #: The numbers of rows that are dead on disk.
        self.dead: set[int] = set()
        #: The target of each row on disk.
        self.targets: dict[int, Target] = {}

    def write(self, entry: Entry, number: int) -> None:
        """Write the row of *entry* in its current state."""
        self.erase(number)
        self.rows[number] = entry
        self.targets[number] = entry.event.target
        if entry.state is State.DEAD:
            self.dead.add(number)

    def erase(self, number: int) -> None:
        """Erase a row if it exists."""
        self.rows.pop(number, None)
        self.dead.discard(number)


class Transaction:
    """A write to a file, in its steps."""

    def __init__(self, file: File, writing: AbstractContextManager[Write]) -> None:
        self.file = file
        self.writing = writing
        self._write = writing.__enter__()
        self.new = self._write.new
        self.outdated = self._write.outdated
        self.is_committed = False

    def commit(self) -> None:
        """Write and erase rows."""
        for entry, number in self._write.written:
            assert entry.row == Row(self.file, number)
            self.file.write(entry, number)
        for number in self._write.erased:
            self.file.erase(number)
        self.is_committed = True

    def fail(self, error: Exception) -> None:
        """The write has failed."""
        if not self.writing.__exit__(type(error), error, None):
            raise error


class SpoolingLedgerMachine(LedgerMachine):
    """The same machine with a spool, whose files are lists.

    A file is written by one thread, so its steps follow each other. Calls by the broker
    and the application may come between any two of them.
    """

    durable = True

    def __init__(self) -> None:
        super().__init__()
        #: All events ever handed over or adopted, in order, with their times.
        self.order: dict[Entry, float] = {}
        self.adopted = 0
        self.unadopted = 0
        #: What was reported to the ledger as being on disk.
        self.safe: set[Entry] = set()
        self.own = File()
        self.orphans: list[File] = []
        self.transaction: Transaction | None = None

    def is_on_disk(self, entry: Entry) -> bool:
        return entry in self.safe

    @rule(queue=QUEUES)
    def hand_over_in_another_order(self, queue: str) -> None:
        first, second = self.new_collector(), self.new_collector()
        self.collect(first, queue, 1, 1)
        self.collect(second, queue, 1, 1)
        self.hand_over(second)
        # The order is recorded at each hand-over.
        self.note_the_order()
        self.hand_over(first)

    # A write: the spool asks the ledger, commits, and reports back.

    @precondition(lambda self: self.transaction is None)
    @rule(data=st.data(), seconds=st.sampled_from([AT_ONCE, 0.25, 10.0]))
    def begin_to_write(self, data: st.DataObject, seconds: float) -> None:
        # The events that callers wait for may be final or on disk by now.
        known = list(self.order)
        wanted = data.draw(st.lists(st.sampled_from(known))) if known else []
        self.write(wanted, seconds)

    def write(self, entries: list[Entry], seconds: float) -> Transaction:
        wanted = list(dict.fromkeys([*entries, *self.oldest(seconds, ALL)]))
        unstored = self.unstored()
        outdated = self.outdated_in(self.own)
        self.transaction = Transaction(
            self.own,
            self.ledger.writing(self.own, entries, overdue_after=seconds, limit=ALL),
        )
        assert self.transaction.new == [e for e in wanted if e in unstored]
        for entry in self.transaction.new:
            assert entry.row == Row(self.own, entry.sequence)
            assert not entry.is_stored
        assert self.transaction.outdated == outdated
        return self.transaction

    def oldest(self, seconds: float, limit: int) -> list[Entry]:
        """The events not on disk *seconds* after their hand-over."""
        return self.ledger._disk_index.oldest(self.clock.now - seconds, limit)

    @precondition(lambda self: self.transaction is None and self.orphans)
    @rule(data=st.data())
    def begin_to_follow(self, data: st.DataObject) -> None:
        self.follow(data.draw(st.sampled_from(self.orphans)))

    def follow(self, file: File) -> Transaction:
        self.transaction = Transaction(file, self.ledger.writing(file))
        assert self.transaction.new == []
        return self.transaction

    @precondition(lambda self: self.transaction and not self.transaction.is_committed)
    @rule()
    def commit(self) -> None:
        assert self.transaction is not None
        self.transaction.commit()

    @precondition(lambda self: self.transaction and self.transaction.is_committed)
    @rule()
    def tell_what_is_stored(self) -> None:
        assert self.transaction is not None
        self.transaction.writing.__exit__(None, None, None)
        self.safe.update(self.transaction.new)
        self.transaction = None

    @precondition(lambda self: self.transaction and not self.transaction.is_committed)
    @rule(damaged=st.booleans())
    def fail_to_write(self, damaged: bool) -> None:
        """The disk is full, or the file is damaged."""
        assert self.transaction is not None
        file = self.transaction.file
        with pytest.raises(OSError, match="full"):
            self.transaction.fail(OSError("full"))
        self.transaction = None
        if damaged:
            self.lose(file)

    @precondition(lambda self: self.transaction is None)
    @rule()
    def write_all(self) -> None:
        self.write([], AT_ONCE).commit()
        self.tell_what_is_stored()

    # The files of dead processes

    @precondition(lambda self: self.transaction is None)
    @rule(
        data=st.data(),
        queue=QUEUES,
        dead=st.lists(st.booleans(), min_size=1, max_size=4),
        whole=st.booleans(),
    )
    def adopt(
        self, data: st.DataObject, queue: str, dead: list[bool], whole: bool
    ) -> None:
        """A page of a file is adopted; from a damaged file, it is only copied."""
        events, size = self.ledger.free()
        new = [make_event(queue=queue) for _ in dead[: max(0, events)]]
        if sum(event.size for event in new) > size:
            return
        known = [e.event for e in self.handed_over()] + new
        again = data.draw(st.lists(st.sampled_from(known), max_size=2)) if known else []
        rows = [*zip(new, dead, strict=False), *((event, False) for event in again)]
        file = File()
        entries = [self.row_of(file, whole, *row) for row in enumerate(rows)]

        doubles = self.ledger.adopt(entries, self.note_unread(data))

        assert doubles == entries[len(new) :]
        for entry in entries[: len(new)]:
            self.all[entry.event.id] = entry
            if entry.state is State.DEAD:
                self.ever_refused.add(entry.event.id)
                self.adopted_dead += 1
        self.adopted += len(new)
        if whole:
            self.safe.update(entries[: len(new)])
            self.orphans.append(file)

    def row_of(
        self, file: File, whole: bool, number: int, row: tuple[Event, bool]
    ) -> Entry:
        event, dead = row
        entry = adopted_entry(StoredEvent(number, event, "no" if dead else None))
        if whole:
            entry.row, entry.is_stored = Row(file, number), True
            file.write(entry, number)
        return entry

    @precondition(lambda self: self.transaction is None)
    @rule(data=st.data())
    def lose_a_file(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from([self.own, *self.orphans]))
        self.lose(file)

    def lose(self, file: File) -> None:
        self.ledger.lost(file)
        self.safe.difference_update(file.rows.values())
        if file is self.own:
            self.own = File()
        else:
            self.orphans.remove(file)

    def note_unread(self, data: st.DataObject) -> dict[Target | None, int]:
        """The unread rows of other files."""
        queue, count = data.draw(QUEUES), data.draw(st.integers(0, 2))
        self.unadopted = count + 1 if count else 0
        return {Target("", queue): count, None: 1} if count else {}

    @rule(data=st.data())
    def read_nothing(self, data: st.DataObject) -> None:
        assert self.ledger.adopt([], self.note_unread(data)) == []

    # Invariants

    @rule(seconds=st.sampled_from([0.0, 0.001, 10.0]), limit=st.integers(0, 4))
    def overdue(self, seconds: float, limit: int) -> None:
        before = self.clock.now - seconds
        oldest = [e for e in self.unstored() if self.order[e] <= before]
        assert self.oldest(seconds, limit) == oldest[:limit]
        assert self.ledger.has_overdue(seconds) == bool(oldest)

    @rule()
    def see_whether_all_is_flushed(self) -> None:
        left = self.count(State.RETAINED, State.IN_FLIGHT) + self.unadopted
        assert self.ledger.undelivered() == left
        assert self.ledger.wait_until_flushed(self.clock.now) == (not left)

    @invariant()
    def the_disk_is_well(self) -> None:
        self.note_the_order()
        self.what_is_not_on_disk_is_known()
        self.what_is_on_disk_can_be_read()
        self.each_row_is_right_or_about_to_be()
        self.the_figures_are_right()

    def note_the_order(self) -> None:
        for entry in self.handed_over():
            if entry not in self.order:
                last = max((known.sequence for known in self.order), default=0)
                assert entry.sequence > last
                self.order[entry] = self.clock.now
        sequences = [entry.sequence for entry in self.order]
        assert sequences == sorted(sequences)

    def what_is_not_on_disk_is_known(self) -> None:
        assert self.oldest(AT_ONCE, ALL) == self.unstored()
        assert self.ledger.unstored() == len(self.unstored())

    def what_is_on_disk_can_be_read(self) -> None:
        for entry in self.handed_over():
            assert entry.is_stored == (entry in self.safe)
            if entry.is_stored:
                assert entry.row is not None
                assert isinstance(entry.row.journal, File)
                assert entry.row.journal.rows[entry.row.number] is entry

    def each_row_is_right_or_about_to_be(self) -> None:
        outdated = {e for file in self.files() for e in self.outdated_in(file)}
        if self.transaction is not None and not self.transaction.is_committed:
            outdated.update(self.transaction.outdated)
        for file in self.files():
            for number, entry in file.rows.items():
                is_right = (
                    entry.state.alive
                    and (number in file.dead) == (entry.state is State.DEAD)
                    and file.targets[number] == entry.target == entry.event.target
                )
                assert is_right or entry in outdated

    def the_figures_are_right(self) -> None:
        stats = self.ledger.stats()
        assert stats.adopted == self.adopted
        assert stats.spooled == len(self.safe.intersection(self.handed_over()))
        assert stats.unerased == self.unerased()
        assert stats.unadopted == self.unadopted
        dead = [e for e in self.all.values() if e.state is State.DEAD]
        held = [e for e in self.all.values() if e.state.alive and e not in dead]
        free, free_bytes = self.ledger.free()
        excess = max(0, len(dead) - MAX_DEAD_EVENTS)
        assert free == MAX_EVENTS - len(held) - excess
        dead_bytes = sum(e.event.size for e in dead)
        excess_bytes = max(0, dead_bytes - MAX_BYTES // 4)
        held_bytes = sum(e.event.size for e in held)
        assert free_bytes == MAX_BYTES - held_bytes - excess_bytes

    def files(self) -> list[File]:
        return [self.own, *self.orphans]

    def unerased(self) -> int:
        """How many rows are to be updated, also by a transaction that has begun."""
        begun = self.transaction.outdated if self.transaction is not None else []
        return len(begun) + sum(map(len, map(self.outdated_in, self.files())))

    def outdated_in(self, file: File) -> list[Entry]:
        """The entries whose rows in *file* must be updated; nothing is removed."""
        return list(self.ledger._disk_index._outdated.get(file, []))

    def unstored(self) -> list[Entry]:
        """The events that should be on disk but are not, in order."""
        kept = set(self.handed_over()) - self.safe
        return [entry for entry in self.order if entry in kept]

    # The end

    def teardown(self) -> None:
        """When everything is delivered, only dead events are left on disk."""
        super().teardown()
        if not hasattr(self, "ledger"):
            return
        if self.transaction is not None:
            self.transaction.commit()
            self.tell_what_is_stored()
        for file in self.files():
            self.follow(file).commit()
            self.tell_what_is_stored()
        for file in self.files():
            assert set(file.rows) == file.dead
            assert not self.outdated_in(file)
        assert not self.ledger.unerased


TestSpoolingLedger = SpoolingLedgerMachine.TestCase
TestSpoolingLedger.settings = SETTINGS
