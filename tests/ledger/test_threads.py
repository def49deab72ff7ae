"""Several threads at the same time."""

from __future__ import annotations

import threading

from flask_eventcollector.delivery.entries import Entry, Settlement
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.events import BrokerState, Outcome
from tests.helpers import DEADLINE, thread
from tests.ledger.support import hand_over_one
from tests.parts import books, limits


def test_each_event_is_taken_by_one_thread_only() -> None:
    held = Ledger(limits(max_events=10_000, max_in_flight=10_000))
    held.on_state_change(BrokerState.READY)
    taken: list[Entry] = []
    start = threading.Barrier(5)

    def produce() -> None:
        start.wait(DEADLINE)
        for _ in range(500):
            hand_over_one(held)

    def consume() -> None:
        start.wait(DEADLINE)
        for _ in range(2000):
            given = held.take(3)
            taken.extend(given)
            held.settle([Settlement(entry, Outcome.CONFIRMED) for entry in given])

    with thread(produce), thread(produce), thread(consume), thread(consume):
        start.wait(DEADLINE)
    confirm_all_left(held, taken)
    assert len({entry.event.id for entry in taken}) == len(taken) == 1000
    assert books(held) == {"confirmed": 1000}


def confirm_all_left(held: Ledger, taken: list[Entry]) -> None:
    while given := held.take(100):
        taken.extend(given)
        held.settle([Settlement(entry, Outcome.CONFIRMED) for entry in given])
