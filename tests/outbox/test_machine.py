"""What sessions, processes, the broker and operators may do, in any order.

`TEST_OUTBOX_RUNS` sets the number of examples, by default a few.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from flask_eventcollector.delivery.entries import Entry
from flask_eventcollector.events import BrokerState, Outcome
from flask_eventcollector.stores.filter import Filter
from flask_eventcollector.stores.outbox.store import LOOK_INTERVAL
from tests.databases import DatabaseServer
from tests.outbox.simulation import (
    LEASE,
    Fault,
    Killed,
    Place,
    Process,
    Simulation,
    failing_commit,
    some_of,
)
from tests.transactions.support import Order, url_in

RUNS = int(os.environ.get("TEST_OUTBOX_RUNS", "0"))

#: Which of the two processes takes a step.
WHO = st.integers(0, 1)
QUEUES = st.sampled_from(["a", "a", "b"])
# Of several items; see `some_of()`.
PLACES = st.lists(st.integers(0, 5), unique=True, min_size=1)
OUTCOMES = st.sampled_from(["confirmed", "confirmed", "refused", "dead", "lost"])
#: What is done in a transaction.
_ORDERS = ["order"] * 3 + ["order unflushed", "tell before", "fail to flush", "delay"]
_OTHERS = ["savepoint", "savepoint", "release", "take back", "publish", "clear"]
STEPS = st.lists(st.sampled_from(_ORDERS + _OTHERS), min_size=1, max_size=9)
ENDINGS = st.sampled_from(["commit", "commit", "rollback", "close", "leave open"])
MAX_IN_FLIGHT = 5
#: Begins what belongs to no transaction.
PLAIN = "plain"
#: Of delayed events, in seconds.
DELAYS = (3.0, LEASE)


@dataclass(eq=False)
class Copy:
    """A message on its way to a queue."""

    sku: str
    #: Whether it got there. What is in flight counts as if it had.
    arrives: bool = True


class Machine(RuleBasedStateMachine):
    """Two processes at a time, each with a session that places orders.

    The database is the model: an event is to be sent if its order is committed.
    """

    place: ClassVar[Place]

    def __init__(self) -> None:
        super().__init__()
        self.simulation = Simulation(self.place)
        self.processes: list[Process] = []
        self.number = 0
        #: The process and the queue of each event.
        self.origins: dict[str, tuple[int, str]] = {}
        #: What was sent of each event, in the order of the sending.
        self.copies: dict[str, list[Copy]] = {}
        self.in_flight: dict[Entry, Copy] = {}
        #: Events that need not be sent: cleared or purged.
        self.waived: set[str] = set()
        #: Events that others may overtake, since the broker has refused them.
        self.refused: set[str] = set()
        #: When delayed events may be sent at the earliest.
        self.due: dict[str, float] = {}
        #: Events of transactions that others may have overlapped.
        self.overlapping: set[str] = set()
        #: The last row that was sent, by all that order is kept for.
        self.last: dict[tuple[object, ...], int] = {}

    @initialize(
        max_events=st.sampled_from([1000, 16]),
        relay=st.sampled_from(["own", "external"]),
    )
    def begin(self, max_events: int, relay: str) -> None:
        self.max_events, self.relay_mode = max_events, relay
        #: Whether order is kept whoever sends.
        self.is_strict = relay == "external"
        self.processes = [self.new_process() for _ in range(2)]

    def new_process(self) -> Process:
        return self.simulation.start(self.max_events, self.relay_mode)

    def replace(self, process: Process) -> None:
        self.processes[self.processes.index(process)] = self.new_process()

    # What an app does.

    @rule(who=WHO, queue=QUEUES, steps=STEPS, ending=ENDINGS)
    def work(self, who: int, queue: str, steps: list[str], ending: str) -> None:
        """A transaction; or the first steps of one that is left open."""
        process = self.processes[who]
        with self.at_work(process):
            for step in steps:
                self.take_step(process, queue, step)
            if ending != "leave open":
                self.end(process, ending)

    @contextmanager
    def at_work(self, process: Process) -> Iterator[None]:
        """SQLite has one writer at a time: the app rolls back what comes in between."""
        try:
            yield
        except OperationalError:
            process.roll_back()
        except Killed:
            self.kill_now(process)

    def take_step(self, process: Process, queue: str, step: str) -> None:
        if step in ("order", "order unflushed", "tell before", "delay"):
            self.order(process, queue, step)
        elif step == "savepoint":
            process.savepoints.append(process.session.begin_nested())
        elif step == "fail to flush":
            self.fail_to_flush(process)
        elif step == "publish":
            process.events.publish(0)
        elif step == "clear":
            unpublished = process.events.events_to_publish
            self.waived.update(event.payload for event in unpublished)
            process.events.clear_events_to_publish()
        elif process.savepoints:
            innermost = process.savepoints.pop()
            getattr(innermost, {"release": "commit", "take back": "rollback"}[step])()

    def order(self, process: Process, queue: str, how: str = "order") -> None:
        sku = self.new_sku(process, queue)
        if how == "tell before":
            # Otherwise the event would belong to no transaction.
            process.session.execute(text("SELECT 1"))
            process.shop.enqueue(sku, queue=queue)
        process.session.add(Order(sku=sku))
        if how in ("order", "delay"):
            process.session.flush()
        if how == "delay":
            self.delay(process, queue, sku)
        elif how != "tell before":
            process.shop.enqueue(sku, queue=queue)

    def delay(self, process: Process, queue: str, sku: str) -> None:
        delay = DELAYS[self.number % len(DELAYS)]
        self.due[sku] = self.place.clock.now + delay
        # Others overtake it.
        self.overlapping.add(sku)
        process.shop.events.enqueue_event(sku, queue, delay=delay)

    def new_sku(self, process: Process, queue: str, prefix: str = "order") -> str:
        self.number += 1
        sku = f"{prefix} {self.number}"
        self.origins[sku] = process.number, queue
        return sku

    def fail_to_flush(self, process: Process) -> None:
        known = process.session.scalar(text("SELECT sku FROM orders"))
        if known is None:
            return
        process.session.expunge_all()
        process.session.add(Order(sku=known))
        with pytest.raises(IntegrityError):
            process.session.flush()
        # What the database has rolled back is the innermost.
        if process.savepoints:
            process.savepoints.pop().rollback()
        else:
            process.session.rollback()

    def end(self, process: Process, how: str) -> None:
        process.savepoints.clear()
        if process.outer is not None and how == "close":
            # It leaves to the outer transaction what it has not committed.
            how = "rollback"
        getattr(process.session, how)()

    @rule(who=WHO, queue=QUEUES, is_committed=st.booleans(), kill=st.booleans())
    def fail_to_commit(
        self, who: int, queue: str, is_committed: bool, kill: bool
    ) -> None:
        """The answer to a commit is lost, or its process is killed meanwhile."""
        process = self.processes[who]
        error: Exception = Killed() if kill else OSError("the connection is lost")
        with self.at_work(process):
            self.order(process, queue)
            process.savepoints.clear()
            try:
                with failing_commit(process.engine, error, is_committed=is_committed):
                    process.session.commit()
            except OSError:
                process.roll_back()

    @rule(who=WHO, queue=QUEUES)
    def commit_in_an_outer_transaction(self, who: int, queue: str) -> None:
        process = self.processes[who]
        if not process.has_transaction:
            process.join_outer()
            self.overlapping.add(f"order {self.number + 1}")
            self.work(who, queue, ["order"], "commit")

    @precondition(lambda self: any(p.outer for p in self.processes))
    @rule(who=WHO, how=st.sampled_from(["commit", "rollback"]))
    def end_the_outer_transaction(self, who: int, how: str) -> None:
        process = self.processes[who]
        if process.outer is not None:
            with self.at_work(process):
                process.end_outer(how)

    @rule(who=WHO, queue=QUEUES, count=st.sampled_from([1, 20]))
    def publish_without_a_transaction(self, who: int, queue: str, count: int) -> None:
        process = self.processes[who]
        if process.has_transaction:
            return
        with process.events.auto_publish():
            for _ in range(count):
                process.shop.enqueue(self.new_sku(process, queue, PLAIN), queue=queue)

    @rule(who=WHO, how=st.sampled_from(["retry", "purge"]))
    def change_dead_events(self, who: int, how: str) -> None:
        delivery = self.processes[who].delivery
        dead = [each.event for each in delivery.dead()]
        if how == "purge":
            self.waived.update(event.payload for event in dead)
        getattr(delivery, how)([event.id for event in dead])

    # What an operator does, in a process of its own.

    @rule(how=st.sampled_from(["retry", "purge"]), only_dead=st.booleans())
    def change_rows(self, how: str, only_dead: bool) -> None:
        with self.place.admin() as admin, suppress(OperationalError):
            rows = list(admin.rows(wanted=Filter(dead=only_dead)))[:2]
            getattr(admin, how)([row.seq for row in rows])
            if how == "purge":
                self.waived.update(row.event.payload for row in rows)

    # The outbox's thread, and the clock.

    @rule(who=WHO)
    def run(self, who: int) -> None:
        process = self.processes[who]
        process.run_store()
        if process.store._breaker.problem is None:
            # It has told the table all that it knows.
            held = process.store._held
            sizes = [entry.event.size for entry in held.sendable().values()]
            assert (held.count, held.size) == (len(sizes), sum(sizes))

    @rule(
        who=WHO,
        kill=st.booleans(),
        is_committed=st.booleans(),
        successes=st.integers(0, 3),
    )
    def run_and_fail(
        self, who: int, kill: bool, is_committed: bool, successes: int
    ) -> None:
        """A transaction of the thread fails, or it is killed there."""
        process = self.processes[who]
        error: Exception = Killed() if kill else OSError("the connection is lost")
        self.simulation.fault = Fault(error, is_committed, successes)
        # It holds rows that it does not know of: others overtake them.
        self.is_strict &= kill or not is_committed
        try:
            process.run_store()
        except Killed:
            self.kill_now(process)
        finally:
            self.simulation.fault = None

    @rule(seconds=st.sampled_from([1.0, 5.0, LOOK_INTERVAL, LEASE - 1, LEASE]))
    def pass_time(self, seconds: float) -> None:
        self.place.move_clock(seconds)

    # The broker.

    @rule(who=WHO, limit=st.integers(1, MAX_IN_FLIGHT))
    def take(self, who: int, limit: int) -> None:
        process = self.processes[who]
        for entry in process.broker.take(limit):
            self.note_sent(process, entry)

    @rule(
        who=WHO,
        queue=QUEUES,
        orders=st.sampled_from([0, 1, 9]),
        outcome=OUTCOMES,
        arrived=st.booleans(),
        runs=st.booleans(),
    )
    def relay(
        self,
        who: int,
        queue: str,
        orders: int,
        outcome: str,
        arrived: bool,
        runs: bool,
    ) -> None:
        """More is committed, and some of all is sent, with one outcome."""
        self.work(who, queue, ["order"] * orders, "commit")
        self.find_the_broker(who)
        self.run(who)
        self.take(who, MAX_IN_FLIGHT)
        self.settle(who, list(range(MAX_IN_FLIGHT)), outcome, arrived)
        if runs:
            self.run(who)

    @rule(who=WHO, seconds=st.sampled_from([LEASE / 2, LEASE - 1, LEASE]))
    def freeze(self, who: int, seconds: float) -> None:
        """A process is frozen in the middle of its work, while the other one works."""
        self.work(who, "a", ["order"], "commit")
        self.run(who)
        self.pass_time(seconds)
        self.processes[1 - who].delivery.flush(0)
        self.relay(1 - who, "a", 0, "confirmed", arrived=True, runs=False)
        self.take(who, MAX_IN_FLIGHT)

    @rule(who=WHO, places=PLACES, outcome=OUTCOMES, arrived=st.booleans())
    def settle(self, who: int, places: list[int], outcome: str, arrived: bool) -> None:
        process = self.processes[who]
        some = some_of(process.broker.hand, places)
        if outcome == "lost":
            self.lose_in_flight(process, arrived=arrived)
            process.broker.becomes(BrokerState.DOWN)
        elif outcome == "confirmed":
            self.report(process, some, Outcome.CONFIRMED)
        else:
            self.refused.update(entry.event.payload for entry in some)
            for entry in some:
                self.in_flight[entry].arrives = False
            kind = Outcome.RETURNED if arrived else Outcome.NACKED
            self.report(process, some, kind, final=outcome == "dead")

    @rule(who=WHO)
    def find_the_broker(self, who: int) -> None:
        process = self.processes[who]
        process.broker.becomes(BrokerState.READY)
        process.delivery.flush(0)

    def report(
        self,
        process: Process,
        some: Sequence[Entry],
        outcome: Outcome,
        *,
        final: bool = False,
    ) -> None:
        for entry in some:
            del self.in_flight[entry]
        process.broker.settle(some, outcome, final=final)

    def lose_in_flight(self, process: Process, *, arrived: bool) -> None:
        for entry in process.broker.hand:
            self.in_flight.pop(entry).arrives = arrived

    # The end of a process.

    @rule(who=WHO, arrived=st.booleans())
    def kill(self, who: int, arrived: bool) -> None:
        process = self.processes[who]
        self.kill_now(process, arrived=arrived)

    def kill_now(self, process: Process, *, arrived: bool = True) -> None:
        self.lose_in_flight(process, arrived=arrived)
        process.kill()
        self.replace(process)

    @rule(who=WHO, arrived=st.booleans(), goes_on=st.booleans())
    def close(self, who: int, arrived: bool, goes_on: bool) -> None:
        process = self.processes[who]
        process.roll_back()
        self.lose_in_flight(process, arrived=arrived)
        process.close()
        if goes_on:
            self.work(who, "a", ["order"], "commit")
        process.disconnect()
        self.replace(process)

    # What is sent.

    def note_sent(self, process: Process, entry: Entry) -> None:
        sku = entry.event.payload
        copy = self.in_flight[entry] = Copy(sku)
        if sku.startswith(PLAIN):
            return
        assert sku in self.place.orders(), "a ghost"
        assert self.due.get(sku, 0) <= self.place.clock.now + 0.01, "too early"
        before = self.copies.setdefault(sku, [])
        if any(copy.arrives for copy in before):
            assert entry.possible_duplicate, "a second copy without a mark"
        before.append(copy)
        # Who takes over from a leader keeps the order. Leases may end in any.
        is_second = bool(before[:-1]) if self.is_strict else entry.possible_duplicate
        if not (is_second or sku in self.refused | self.overlapping):
            self.see_in_order(process, entry)

    def see_in_order(self, process: Process, entry: Entry) -> None:
        assert entry.row is not None
        origin, queue = self.origins[entry.event.payload]
        place: tuple[object, ...] = process.number, origin, queue
        if self.relay_mode == "external":
            # Among all processes.
            place = (queue,)
        assert entry.row.number > self.last.get(place, 0), "it was overtaken"
        self.last[place] = entry.row.number

    @rule(who=WHO)
    def send_everything(self, who: int) -> None:
        """A process alone sends all that is committed, soon after the last lease."""
        if any(process.has_transaction for process in self.processes):
            return
        process = self.processes[who]
        process.broker.becomes(BrokerState.READY)
        for _ in range(10):
            self.place.move_clock(LEASE / 3)
            process.delivery.flush(0)
            self.send_what_is_known(process)
        assert self.place.waiting() == [], "nobody sends it"

    def send_what_is_known(self, process: Process) -> None:
        for _ in range(1000):
            pause = process.run_store()
            for entry in process.broker.take(MAX_IN_FLIGHT):
                self.note_sent(process, entry)
            hand = list(process.broker.hand)
            self.report(process, hand, Outcome.CONFIRMED)
            if pause and not hand:
                return
        raise AssertionError("it does not come to an end")

    @invariant()
    def the_books_balance(self) -> None:
        for process in self.processes:
            assert process.events.stats().balanced
            stats = process.delivery.stats()
            assert stats.balanced
            assert stats.in_flight == len(process.broker.hand)
            process.delivery.notify_pending()

    def teardown(self) -> None:
        try:
            if self.processes:
                self.send_the_rest()
        finally:
            for process in self.processes:
                process.kill()
            self.simulation.close()

    def send_the_rest(self) -> None:
        """One more process sends what all others have left, dead events included."""
        for who in range(len(self.processes)):
            self.kill(who, arrived=True)
        with self.place.admin() as admin:
            admin.retry([row.seq for row in admin.rows(wanted=Filter(dead=True))])
        self.send_everything(0)
        arrived = {
            sku
            for sku, copies in self.copies.items()
            if any(copy.arrives for copy in copies)
        }
        assert self.place.orders() - arrived - self.waived == set(), "lost"


def run_machine(url: str, runs: int) -> None:
    place = Place(url)
    try:
        run_state_machine_as_test(
            type("Machine", (Machine,), {"place": place}),
            settings=settings(
                max_examples=RUNS or runs,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    finally:
        place.close()


#: Steps that chance rarely finds, and what they are about.
SEQUENCES: dict[str, list[tuple[Any, ...]]] = {
    "what was given back is sent before newer rows": [
        ("begin", 16, "own"),
        ("relay", 0, "a", 9, "confirmed", True, False),
        ("relay", 0, "a", 1, "confirmed", True, True),
        ("relay", 0, "a", 0, "confirmed", True, False),
    ],
    "what may have been sent is marked, also if it was dead in between": [
        ("begin", 1000, "own"),
        ("relay", 0, "a", 1, "lost", True, False),
        ("relay", 0, "a", 0, "dead", True, True),
    ],
    "a full memory drops no event of a transaction": [
        ("begin", 16, "own"),
        ("settle", 0, [0], "lost", False),
        ("publish_without_a_transaction", 0, "a", 20),
        ("work", 0, "a", ["order"] * 3, "commit"),
    ],
    "a new leader keeps the order of what the last one holds": [
        ("begin", 1000, "external"),
        ("run", 0),
        ("pass_time", 5.0),
        ("relay", 0, "b", 0, "confirmed", True, False),
        ("work", 0, "a", ["order"], "commit"),
        ("run", 0),
        ("pass_time", LEASE - 4),
        ("relay", 1, "a", 1, "confirmed", True, False),
    ],
    "a relay that was frozen marks what it sends without the lead": [
        ("begin", 1000, "external"),
        ("run", 0),
        ("pass_time", 5.0),
        ("freeze", 0, LEASE - 1),
    ],
    "what was in flight when its lease ended is marked when it is sent again": [
        ("begin", 1000, "own"),
        ("freeze", 0, LEASE / 2),
        ("freeze", 0, LEASE),
        ("relay", 0, "a", 9, "refused", True, True),
        ("relay", 0, "a", 0, "refused", True, True),
    ],
    "a savepoint that flushes when it is released writes no row": [
        ("begin", 1000, "own"),
        ("work", 0, "a", ["order", "savepoint", "savepoint"], "leave open"),
        ("work", 0, "a", ["order unflushed", "release", "take back"], "commit"),
    ],
    "an outer transaction decides": [
        ("begin", 1000, "own"),
        ("commit_in_an_outer_transaction", 0, "a"),
        ("relay", 0, "a", 0, "confirmed", True, False),
        ("end_the_outer_transaction", 0, "rollback"),
    ],
}


@pytest.mark.parametrize("steps", SEQUENCES.values(), ids=SEQUENCES)
def test_an_order_of_steps(steps: list[tuple[Any, ...]], tmp_path: Path) -> None:
    place = Place(url_in(tmp_path))
    machine = type("Machine", (Machine,), {"place": place})()
    try:
        for rule_name, *arguments in steps:
            getattr(machine, rule_name)(*arguments)
            machine.the_books_balance()
    finally:
        machine.teardown()
        place.close()


def test_any_order_of_steps(tmp_path: Path) -> None:
    run_machine(url_in(tmp_path), 15)


def test_any_order_of_steps_on_postgresql(postgresql: DatabaseServer) -> None:
    run_machine(postgresql.new_database(), 8)
