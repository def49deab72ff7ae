"""Rows appear, wait and come back in any order; claims find each of them in time.

`TEST_OUTBOX_RUNS` sets the number of examples, by default a few.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import insert, select

from flask_eventcollector.events import Properties, Target
from flask_eventcollector.stores.outbox import claims
from flask_eventcollector.stores.outbox.admin import OutboxAdmin
from flask_eventcollector.stores.outbox.claims import LOOK_INTERVAL, Position
from flask_eventcollector.stores.outbox.database import Database
from flask_eventcollector.stores.outbox.outbox import Outbox, Refused
from flask_eventcollector.stores.outbox.rows import OutboxRow, values_of
from flask_eventcollector.stores.outbox.table import WAITING
from tests.outbox.simulation import Place
from tests.outbox.support import APP, MUCH
from tests.parts import make_event
from tests.transactions.support import url_in

RUNS = int(os.environ.get("TEST_OUTBOX_RUNS", "0"))

#: The most rows of one transaction.
CHUNK = 3
LEASE = 30.0
#: Seconds between two claims at the end, and within which all rows are found that are
#: free, or become so by the time alone.
POLL, FREE_WITHIN, DUE_WITHIN = 0.5, 15.0, LOOK_INTERVAL

COUNTS = st.integers(1, 7)
SECONDS = st.sampled_from([0.5, 1.0, 3.0, 10.0, LEASE])


class Machine(RuleBasedStateMachine):
    """Two processes, of which the first is seen to find all rows."""

    place: ClassVar[Place]

    @initialize()
    def begin(self) -> None:
        self.database = Database(self.place.engine, self.place.table)
        self.database.chunk = CHUNK
        self.outboxes = [Outbox(self.database, APP, lease=LEASE) for _ in range(2)]
        self.admin = OutboxAdmin(self.database, APP)
        #: What each of them holds.
        self.held: list[list[int]] = [[], []]
        #: The numbers of what is not committed yet.
        self.late: list[int] = []

    @rule(count=COUNTS, delay=st.none() | SECONDS)
    def write(self, count: int, delay: float | None) -> None:
        properties = Properties(delay=delay)
        events = [make_event(n, properties=properties) for n in range(count)]
        with self.place.engine.begin() as connection:
            self.outboxes[1].write(connection, events, held=False)

    @rule(count=COUNTS)
    def write_held(self, count: int) -> None:
        events = [make_event(n) for n in range(count)]
        with self.place.engine.begin() as connection:
            self.held[1] += self.outboxes[1].write(connection, events, held=True)

    @rule(count=COUNTS)
    def begin_to_write(self, count: int) -> None:
        """As in a transaction that is committed late."""
        with self.place.engine.connect() as connection:
            events = [make_event(n) for n in range(count)]
            self.late += self.outboxes[1].write(connection, events, held=False)
            for seq in self.late[-count:]:
                row = self.place.table.c.seq == seq
                connection.execute(self.place.table.delete().where(row))
            connection.commit()

    @rule(delay=st.none() | SECONDS)
    def commit_late(self, delay: float | None) -> None:
        due = 0 if delay is None else round((self.place.clock.now + delay) * 1000)
        row = {"app": APP, "maybe_sent": False, "due": due}
        with self.place.engine.begin() as connection:
            for seq in self.late:
                values = {**row, **values_of(make_event(seq)), "seq": seq}
                connection.execute(insert(self.place.table).values(values))
        self.late.clear()

    @rule(who=st.integers(0, 1), limit=COUNTS, size=st.sampled_from([1, 2, MUCH]))
    def claim(self, who: int, limit: int, size: int) -> None:
        self.take(who, limit, size)

    def take(self, who: int, limit: int, size: int) -> list[OutboxRow]:
        rows = self.outboxes[who].claim(limit, size)
        seqs = [row.seq for row in rows]
        assert seqs == sorted(seqs)
        assert len(rows) <= min(limit, CHUNK)
        self.held[who] += seqs
        return rows

    @rule(who=st.integers(0, 1))
    def go_on(self, who: int) -> None:
        """Claims come further, so that what appears later is behind them."""
        for _ in range(4):
            self.write(1, None)
            while self.take(who, MUCH, MUCH):
                pass
            self.place.clock.now += LOOK_INTERVAL

    @rule(who=st.integers(0, 1), count=COUNTS, delay=st.none() | SECONDS)
    def let_go(self, who: int, count: int, delay: float | None) -> None:
        seqs, self.held[who] = self.held[who][:count], self.held[who][count:]
        if delay is None:
            self.outboxes[who].give_back(seqs)
        else:
            self.outboxes[who].postpone(seqs, delay)

    @rule(who=st.integers(0, 1), count=COUNTS, dead=st.booleans())
    def end(self, who: int, count: int, dead: bool) -> None:
        seqs, self.held[who] = self.held[who][:count], self.held[who][count:]
        if dead:
            self.outboxes[who].die(Refused(seq, "no", 1) for seq in seqs)
        else:
            self.outboxes[who].erase(seqs)

    @rule(who=st.integers(0, 1))
    def release(self, who: int) -> None:
        self.outboxes[who].release(Target("", make_event(0).target_queue))

    @rule(who=st.integers(0, 1))
    def take_over(self, who: int) -> None:
        while not self.outboxes[who].take_over():
            pass

    @rule()
    def retry(self) -> None:
        self.admin.retry([row.seq for row in self.admin.rows()])

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: float) -> None:
        self.place.move_clock(seconds)

    # The end.

    def waiting(self) -> list[float]:
        """When the rows are due that the first process does not hold."""
        c = self.place.table.c
        rows = select(c.due, c.token).where(c.state == WAITING)
        with self.place.engine.connect() as connection:
            found = connection.execute(rows).all()
        ours = self.outboxes[0].token
        return [due / 1000 for due, token in found if token != ours]

    def teardown(self) -> None:
        try:
            self.find_all()
        finally:
            self.database.close()
            self.place.clear()

    def find_all(self) -> None:
        """The first process claims all in time, and little else happens."""
        clock = self.place.clock
        begun, ours = clock.now, self.outboxes[0]
        while clock.now < begun + LEASE + FREE_WITHIN:
            for due in self.waiting():
                # What was due before may have been committed late.
                is_new = due > begun + DUE_WITHIN
                found_by = due + DUE_WITHIN if is_new else begun + FREE_WITHIN
                assert clock.now <= found_by + POLL, "nobody claims it"
            ours.renew(self.held[0])
            while self.take(0, MUCH, MUCH):
                pass
            clock.now += POLL


@contextmanager
def slow_looks(place: Place) -> Iterator[None]:
    """Looks at all rows are as seldom as can be."""
    looked_at_all = Position.looked_at_all

    def after_a_long_look(position: Position, took: float) -> None:
        looked_at_all(position, FREE_WITHIN)

    time = SimpleNamespace(monotonic=place.clock.monotonic)
    with (
        patch.object(Position, "looked_at_all", after_a_long_look),
        patch.object(claims, "time", time),
    ):
        yield


def test_each_row_is_claimed_in_time(tmp_path: Path) -> None:
    place = Place(url_in(tmp_path))
    machine: Any = type("Machine", (Machine,), {"place": place})
    try:
        with slow_looks(place):
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=RUNS or 8,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
    finally:
        place.close()
