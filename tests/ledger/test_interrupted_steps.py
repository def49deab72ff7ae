"""A step that an exception interrupts leaves the ledger sound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flask_eventcollector.delivery.entries import Entry, State, Waiter
from flask_eventcollector.events import BrokerState, Outcome
from tests.ledger.support import OVERFLOWS, redirect
from tests.parts import DELAY, LEDGER_MODULES, Desk, interruptions, make_event


def busy_desk(**changes: Any) -> Desk:
    """A desk with events in every live state.

    A and B are collected. C, D and G are retained; G was refused. E and F are in
    flight, and so is I, for another target. H is dead.
    """
    desk = Desk(dead_after=1000, **changes)
    desk.hand_over("EFGH")
    desk.take()
    desk.settle("H", Outcome.NACKED, final=True)
    desk.hand_over("I", "other")
    desk.take()
    desk.hand_over("CD")
    desk.collect("AB")
    desk.refuse("G")
    desk.pass_(DELAY)
    desk.notices()
    return desk


def collected(desk: Desk) -> list[Entry]:
    return [e for e in desk.entries.values() if e.state is State.COLLECTED]


def take_some(desk: Desk) -> None:
    for entry in desk.ledger.take(10):
        assert entry.state is State.IN_FLIGHT


STEPS: dict[str, Callable[[Desk], object]] = {
    "collect": lambda desk: desk.ledger.collect([], make_event("Z")),
    "discard": lambda desk: desk.ledger.discard(collected(desk), "cleared"),
    "discard_collected": lambda desk: desk.ledger.discard_collected("the end"),
    "hand_over": lambda desk: desk.ledger.hand_over(
        collected(desk), Waiter(patient=False)
    ),
    "take": take_some,
    "confirm": lambda desk: desk.settle("EFI"),
    "unknown": lambda desk: desk.settle("EFI", Outcome.UNKNOWN, back_off=True),
    "not sent": lambda desk: desk.settle("EFI", None, reason="no"),
    "refuse": lambda desk: desk.refuse("EFI"),
    "dead": lambda desk: desk.settle("EFI", Outcome.NACKED, final=True),
    "retry": lambda desk: desk.ledger.retry(None),
    "redirect": lambda desk: redirect(desk, "CDGH", "other"),
    "purge": lambda desk: desk.ledger.purge(
        [entry.event.id for entry in desk.entries.values()]
    ),
    "drop_all": lambda desk: desk.ledger.drop_all("the end"),
    "reopen": lambda desk: desk.ledger.reopen(),
    "ready": lambda desk: desk.is_(BrokerState.READY),
    "down": lambda desk: desk.is_(BrokerState.DOWN),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_is_cut_short_leaves_the_books_balanced(name: str) -> None:
    for interruption in interruptions(LEDGER_MODULES, spared=WRAPPERS):
        desk = busy_desk()
        with interruption:
            STEPS[name](desk)
        assert_sound(desk, interruption.struck)


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_an_overflow_that_is_cut_short_leaves_the_books_balanced(overflow: str) -> None:
    for interruption in interruptions(LEDGER_MODULES, spared=WRAPPERS):
        desk = busy_desk(max_events=9, **OVERFLOWS[overflow])
        with interruption:
            desk.ledger.collect([], make_event("Z"))
        assert_sound(desk, interruption.struck)


#: The repair itself is not interrupted: these few lines are not repaired.
WRAPPERS = ("locked", "_mend", "mend", "_balance")


def assert_sound(desk: Desk, where: str) -> None:
    """The books are correct, and each waiting event is sent once, in order."""
    counted = desk.books()
    for state in (State.COLLECTED, State.RETAINED, State.IN_FLIGHT, State.DEAD):
        known = desk.in_state(state).replace("Z", "")
        assert counted.get(state.name.lower(), 0) - len(known) in (0, 1), where
    on_the_way = desk.in_state(State.IN_FLIGHT)
    desk.is_(BrokerState.DOWN)
    desk.is_(BrokerState.READY)
    waiting = desk.in_state(State.RETAINED)
    again = desk.take()
    assert sorted(again) == sorted(waiting), where
    for queue in ("q", "other"):
        ours = [c for c in again if desk[c].target.queue == queue and c in "CDEFGH"]
        assert ours == sorted(ours, key=lambda c: desk[c].sequence), where
    desk.settle(again + on_the_way)
    assert desk.in_state(State.IN_FLIGHT) == "", where
    assert desk.books().get("in_flight", 0) == 0, where
    desk.take()
    assert desk.ledger._traffic.lanes == {}, where


def test_events_that_a_cut_short_take_would_have_sent_still_wait() -> None:
    for interruption in interruptions(LEDGER_MODULES, spared=WRAPPERS):
        desk = Desk()
        desk.hand_over("abc")
        with interruption:
            desk.take()
        if interruption.struck:
            assert desk.books() == {"retained": 3}
            assert desk.take() == "abc"


def test_an_event_whose_collection_is_cut_short_belongs_to_its_collector() -> None:
    for interruption in interruptions(LEDGER_MODULES, spared=WRAPPERS):
        desk = Desk()
        entries = desk.collect("a")
        with interruption:
            desk.ledger.collect(entries, make_event("b"))
        desk.ledger.hand_over(entries)
        assert "collected" not in desk.books(), interruption.struck


@pytest.mark.parametrize("outcome", [Outcome.CONFIRMED, Outcome.NACKED])
def test_nobody_waits_for_what_a_cut_short_step_has_decided(outcome: Outcome) -> None:
    for interruption in interruptions(LEDGER_MODULES, spared=WRAPPERS):
        desk, waiter = Desk(), Waiter(patient=True)
        desk.hand_over("a", waiter=waiter)
        desk.take()
        with interruption:
            desk.settle("a", outcome, final=True)
        if desk["a"].state is not State.IN_FLIGHT:
            assert waiter.done.is_set(), interruption.struck
