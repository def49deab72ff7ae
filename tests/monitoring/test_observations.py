"""What observers are told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from flask_eventcollector import Stats
from flask_eventcollector.delivery.entries import Entry
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.delivery.observations import (
    Happened,
    Observation,
    Observations,
)
from flask_eventcollector.events import BrokerState
from tests.parts import limits, make_event


class Observer:
    """Remembers what it is told."""

    def __init__(self, *wants: Happened, needs_events: bool = False) -> None:
        self.wants = frozenset(wants)
        self.needs_events = needs_events
        self.told: list[Observation] = []

    def observe(self, observations: Sequence[Observation], stats: Stats) -> None:
        self.told += observations

    def close(self) -> None:
        """Nothing to do."""


def tell(*observers: Observer) -> None:
    """Tell them of two events that were confirmed, and of a caller that has waited."""
    observations = Observations(observers, "shop")
    entries = [Entry(make_event(payload)) for payload in (1, 2)]
    observations.note(Happened.CONFIRMED, entries)
    observations.note(Happened.DISCARDED, entries)
    observations.note_other(Happened.WAITED, 0.5)
    observations.start(Stats, str)
    observations.close(20)


def test_each_is_told_what_it_wants() -> None:
    one, two = Observer(Happened.CONFIRMED), Observer(Happened.WAITED)
    tell(one, two)
    assert [observation.what for observation in one.told] == [Happened.CONFIRMED]
    assert [observation.what for observation in two.told] == [Happened.WAITED]


@pytest.mark.parametrize("needs_events", [False, True])
def test_events_are_kept_only_for_those_who_need_them(needs_events: bool) -> None:
    observer = Observer(Happened.CONFIRMED)
    tell(observer, Observer(needs_events=needs_events))
    (told,) = observer.told
    assert len(told.events) == (2 if needs_events else 0)
    assert told.number == 2
    assert told.target is not None
    assert told.target.queue == make_event(1).target_queue


def test_what_is_sent_to_several_targets_at_once_is_told_of_each() -> None:
    observer = Observer(Happened.SENT)
    observations = Observations([observer], "shop")
    ledger = Ledger(limits(), observations=observations)
    ledger.on_state_change(BrokerState.READY)
    entries: list[Entry] = []
    for queue in ("orders", "orders", "invoices"):
        assert ledger.collect(entries, make_event(1, queue))
    entries[2].attempts = 4
    ledger.hand_over(entries)
    assert len(ledger.take(10)) == 3

    observations.start(Stats, str)
    observations.close(20)
    told = [(o.target and o.target.queue, o.number, o.attempt) for o in observer.told]
    assert told == [("orders", 2, 1), ("invoices", 1, 5)]
