"""The counts that must balance, even after an interrupted step."""

import time
from dataclasses import replace

import pytest

from flask_eventcollector.delivery import books
from flask_eventcollector.delivery.books import Books
from flask_eventcollector.delivery.entries import Entry, State
from flask_eventcollector.events import Stats
from tests.parts import interruptions, make_event

COUNTED = [state for state in State if state is not State.NEW]
ENDS = [state for state in COUNTED if not state.alive]


def stats(of: Books) -> Stats:
    return Stats(**of.as_dict())


def opened(of: Books, *payloads: object, size: int = 1) -> list[Entry]:
    entries = [Entry(make_event(payload, size=size)) for payload in payloads]
    for entry in entries:
        of.open([entry])
    return entries


def enqueued(entry: Entry, seconds_ago: float) -> None:
    microseconds = int(1e6 * (time.time() - seconds_ago))
    entry.event = replace(entry.event, microseconds=microseconds)


def test_an_open_entry_is_enqueued_and_collected() -> None:
    ledger = Books()
    opened(ledger, "a")
    assert (stats(ledger).enqueued, stats(ledger).collected) == (1, 1)


@pytest.mark.parametrize("state", COUNTED)
def test_a_move_changes_one_count_for_another(state: State) -> None:
    ledger = Books()
    (entry,) = opened(ledger, "a")
    ledger.move(entry, state)
    assert stats(ledger).balanced
    assert ledger.count(state) == 1


@pytest.mark.parametrize("state", ENDS)
def test_a_final_state_ends_the_life_and_frees_the_bytes(state: State) -> None:
    ledger = Books()
    (entry,) = opened(ledger, "a", size=7)
    assert ledger.bytes(*State) == 7
    ledger.move(entry, state)
    assert (len(ledger), ledger.bytes(*State)) == (0, 0)


def test_the_bytes_in_flight_are_counted_on_their_own() -> None:
    ledger = Books()
    one, other = opened(ledger, "a", "b", size=7)
    ledger.move(one, State.IN_FLIGHT)
    assert (ledger.bytes(*State), ledger.bytes(State.IN_FLIGHT)) == (14, 7)
    ledger.move(one, State.RETAINED)
    ledger.move(other, State.RETAINED)
    assert (ledger.bytes(*State), ledger.bytes(State.IN_FLIGHT)) == (14, 0)


def test_the_living_are_found_by_state_and_by_id_the_oldest_first() -> None:
    ledger = Books()
    a, b, c = opened(ledger, "a", "b", "c")
    ledger.move(b, State.DEAD)
    assert ledger.in_state(State.COLLECTED) == [a, c]
    assert ledger.in_state(State.RETAINED) == []
    assert ledger.select([c.event.id, "unknown", c.event.id]) == [c]
    assert ledger.select(None) == [a, b, c]


def test_the_oldest_age_is_that_of_what_is_handed_over_and_not_delivered() -> None:
    ledger = Books()
    a, b, _ = opened(ledger, "a", "b", "c")
    assert stats(ledger).oldest_age is None
    ledger.move(b, State.IN_FLIGHT)
    enqueued(a, 1100)
    enqueued(b, 100)
    age = stats(ledger).oldest_age
    assert age is not None
    assert 100 <= age < 1000


def test_a_clock_that_was_set_back_makes_no_age_negative() -> None:
    ledger = Books()
    (a,) = opened(ledger, "a")
    ledger.move(a, State.RETAINED)
    enqueued(a, -3600)
    assert stats(ledger).oldest_age == 0


@pytest.mark.parametrize("before", [s for s in State if s.alive])
@pytest.mark.parametrize("after", COUNTED)
def test_a_move_that_is_cut_short_can_be_mended(before: State, after: State) -> None:
    for interruption in interruptions([books], spared=["count", "having"]):
        ledger = Books()
        one, other = opened(ledger, "a", "b", size=7)
        for entry in (one, other):
            ledger.move(entry, before)
        with interruption:
            ledger.move(one, after)
        ledger.rebuild()
        assert_consistent(ledger, [one, other])


def test_an_opening_that_is_cut_short_can_be_mended() -> None:
    for interruption in interruptions([books]):
        ledger = Books()
        (one,) = opened(ledger, "a", size=7)
        other = Entry(make_event("b", size=7))
        with interruption:
            ledger.open([other])
        ledger.rebuild()
        known = other.state is State.COLLECTED
        assert_consistent(ledger, [one, other] if known else [one])


def assert_consistent(ledger: Books, entries: list[Entry]) -> None:
    found = stats(ledger)
    assert found.balanced
    assert found.enqueued == len(entries)
    for state in State:
        expected = [entry for entry in entries if entry.state is state]
        assert ledger.count(state) == len(expected)
        assert ledger.in_state(state) == (expected if state.alive else [])
    for state in State:
        expected_bytes = 7 * ledger.count(state) if state.alive else 0
        assert ledger.bytes(state) == expected_bytes


def test_an_event_that_waits_has_no_dict_of_its_own() -> None:
    (entry,) = opened(Books(), "a")
    entry.reason, entry.refusals = "", 0
    assert entry.rare is None
    for waiting in (entry, entry.event):
        assert not hasattr(waiting, "__dict__")


def test_a_destructor_may_ask_for_the_age_before_the_counts_have_changed() -> None:
    ledger = Books()
    (entry,) = opened(ledger, "a")
    ledger.move(entry, State.IN_FLIGHT)
    entry.state = State.CONFIRMED
    assert stats(ledger).oldest_age is None
    ledger.moved([entry], State.IN_FLIGHT, State.CONFIRMED)
    assert stats(ledger).balanced
