"""What happens when no more events may be held."""

from __future__ import annotations

import string

import pytest

from flask_eventcollector.delivery.entries import Entry, Notice, State
from flask_eventcollector.delivery.traffic import MAX_IN_FLIGHT_BYTES
from flask_eventcollector.events import BrokerState, Outcome
from tests.ledger.support import OVERFLOWS
from tests.parts import Desk, letters, make_event, notices_of

#: Names of events whose only purpose is to reach a limit.
MANY = string.ascii_uppercase


def test_at_the_limit_the_newest_event_is_dropped() -> None:
    desk = Desk(max_events=1)
    desk.hand_over("a")
    entries = desk.collect("b")
    assert desk.notices() == [("events_dropped", "b")]
    assert entries == []
    assert desk.books() == {"retained": 1, "dropped": 1}


def test_at_the_limit_the_oldest_event_is_dropped_if_asked_for() -> None:
    desk = Desk(max_events=2, drop_oldest=True)
    desk.hand_over("a", "one")
    desk.hand_over("b", "other")
    desk.collect("c")
    assert desk.notices() == [("events_dropped", "a")]
    assert desk.books() == {"retained": 1, "collected": 1, "dropped": 1}


def die(desk: Desk, letter: str, size: int = 1) -> None:
    desk.hand_over(letter, size=size)
    assert desk.take() == letter
    desk.settle(letter, Outcome.NACKED, final=True)


def dead_letters(desk: Desk) -> str:
    return "".join(dead.event.payload for dead in desk.ledger.dead())


def fill(
    desk: Desk,
    entries: list[Entry],
    name: str,
    queue: str = "q",
    *,
    size: int = 1,
    hand_over: bool = False,
) -> None:
    desk.ledger.collect(entries, make_event(name, queue, size=size))
    if hand_over:
        desk.ledger.hand_over(entries)


def test_dead_events_have_a_limit_of_their_own() -> None:
    desk = Desk(max_events=2, max_dead_events=2)
    for name in "abc":
        die(desk, name)
    assert dead_letters(desk) == "bc"
    assert desk.notices()[-2:] == [("events_dead", "c"), ("events_dropped", "a")]
    desk.collect("de")
    assert desk.books() == {"dead": 2, "collected": 2, "dropped": 1}


def test_dead_events_may_take_a_quarter_of_the_bytes_on_top() -> None:
    desk = Desk(max_bytes=100)
    for name in "abc":
        die(desk, name, size=10)
    assert dead_letters(desk) == "bc"
    desk.collect("d", size=100)
    assert desk.books() == {"dead": 2, "collected": 1, "dropped": 1}


def test_the_newest_dead_event_is_retained_regardless_of_its_size() -> None:
    desk = Desk(max_bytes=100)
    die(desk, "a", size=90)
    assert desk.books() == {"dead": 1}


def test_a_retried_event_is_not_among_the_dead() -> None:
    desk = Desk(max_dead_events=1)
    die(desk, "a")
    desk.ledger.retry(None)
    assert desk.take() == "a"
    die(desk, "b")
    assert desk.books() == {"in_flight": 1, "dead": 1}
    die(desk, "c")
    assert desk.books() == {"in_flight": 1, "dead": 1, "dropped": 1}


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_a_refused_target_leaves_a_tenth_to_the_others(overflow: str) -> None:
    desk = Desk(max_events=20, **OVERFLOWS[overflow])
    desk.hand_over("a", "refused")
    desk.take()
    desk.refuse("a")
    for name in MANY:
        fill(desk, [], name, "refused", hand_over=True)
    assert desk.ledger.stats().retained == 18
    assert letters(desk.collect("xy", "healthy")) == "xy"


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_a_unit_of_work_that_never_ends_leaves_a_tenth(overflow: str) -> None:
    desk = Desk(max_events=20, **OVERFLOWS[overflow])
    endless: list[Entry] = []
    for name in MANY:
        fill(desk, endless, name)
    assert desk.ledger.stats().collected == 18
    desk.hand_over("xy")
    assert desk.take() == "xy"
    desk.settle("xy")
    assert desk.books()["confirmed"] == 2


def test_large_events_of_an_endless_unit_of_work_leave_a_tenth_of_the_bytes() -> None:
    desk = Desk(max_bytes=100)
    endless: list[Entry] = []
    for name in MANY:
        fill(desk, endless, name, size=9)
    assert desk.ledger.stats().collected == 10
    assert letters(desk.collect("x", size=10)) == "x"


@pytest.mark.parametrize("overflow", ["drop newest", "drop oldest"])
def test_what_a_refused_target_has_gathered_in_an_outage_goes_first(
    overflow: str,
) -> None:
    desk = Desk(max_events=20, **OVERFLOWS[overflow])
    for name in MANY[:20]:
        desk.hand_over(name, "refused")
    assert desk.take(1) == "A"
    desk.refuse("A")
    desk.hand_over("x", "healthy")
    assert ("events_dropped", "A") in desk.notices()
    assert desk.take() == "x"


def test_what_is_on_its_way_or_collected_is_never_the_oldest() -> None:
    desk = Desk(max_events=2, drop_oldest=True)
    desk.hand_over("a")
    desk.take()
    desk.collect("b")
    desk.collect("c")
    assert desk.notices() == [("events_dropped", "c")]
    assert desk.books() == {"in_flight": 1, "collected": 1, "dropped": 1}


def test_at_the_limit_the_newest_event_is_refused_if_asked_for() -> None:
    desk = Desk(max_events=1, reject=True)
    desk.hand_over("a")
    entries: list[Entry] = []
    notices: list[Notice] = []
    assert not desk.ledger.collect(entries, make_event("b"), into=notices)
    assert notices == []
    assert (entries, desk.books()) == ([], {"retained": 1})


def test_bytes_are_limited_as_events_are() -> None:
    desk = Desk(max_bytes=10)
    desk.collect("a", size=10)
    desk.collect("b", size=1)
    assert desk.books() == {"collected": 1, "dropped": 1}
    assert desk.ledger.stats().held_bytes == 10


def test_for_a_large_event_as_many_old_ones_go_as_it_needs() -> None:
    desk = Desk(max_bytes=10, drop_oldest=True)
    desk.hand_over("abc", size=3)
    desk.collect("d", size=7)
    assert desk.notices() == [("events_dropped", "a"), ("events_dropped", "b")]


def test_what_can_never_fit_makes_nothing_else_go() -> None:
    desk = Desk(max_bytes=10, drop_oldest=True)
    desk.hand_over("a", size=5)
    desk.collect("b", size=11)
    assert desk.notices() == [("events_dropped", "b")]


def test_what_ends_makes_room() -> None:
    desk = Desk(max_events=1)
    desk.hand_over("a")
    desk.take()
    desk.settle("a")
    desk.collect("b")
    assert desk.books() == {"confirmed": 1, "collected": 1}


def test_no_more_is_in_flight_than_allowed() -> None:
    desk = Desk(max_in_flight=2)
    desk.hand_over("abc")
    assert desk.take() == "ab"
    assert desk.ledger.due() is None
    assert desk.settle("a")
    assert desk.take() == "c"


def test_no_more_bytes_are_in_flight_than_allowed(desk: Desk) -> None:
    desk.hand_over("abc", size=MAX_IN_FLIGHT_BYTES // 2)
    assert desk.take() == "ab"
    assert desk.settle("a")
    assert desk.take() == "c"


def test_one_event_may_go_however_large_it_is(desk: Desk) -> None:
    desk.hand_over("ab", size=MAX_IN_FLIGHT_BYTES * 2)
    assert desk.take() == "a"
    assert desk.take() == ""
    assert desk.settle("a")
    assert desk.take() == "b"


def test_a_large_event_gets_its_turn_among_small_ones(desk: Desk) -> None:
    half = MAX_IN_FLIGHT_BYTES // 2
    desk.hand_over("abcdefgh", "small", size=half)
    desk.take()
    desk.hand_over("L", "large", size=MAX_IN_FLIGHT_BYTES)
    for confirmed in "abcdefgh":
        if desk["L"].state is State.IN_FLIGHT:
            break
        desk.settle(confirmed)
        desk.take()
    else:
        pytest.fail("the large event has never gone")
    assert desk.in_state(State.RETAINED) != ""


def test_targets_take_turns(desk: Desk) -> None:
    desk.hand_over("abcd", "one")
    desk.hand_over("efgh", "other")
    assert [desk.take(2) for _ in range(4)] == ["ab", "ef", "cd", "gh"]


def test_a_new_target_does_not_wait_for_a_long_one(desk: Desk) -> None:
    desk.hand_over("abcd", "long")
    desk.take(2)
    desk.hand_over("e", "new")
    assert "e" in desk.take(2) + desk.take(2)


def test_after_the_end_what_is_on_disk_is_the_next_processes() -> None:
    desk = Desk(durable=True, max_events=1, drop_oldest=True)
    desk.hand_over("a")
    with desk.ledger.writing("journal", [desk["a"]]):
        pass
    desk.is_(BrokerState.CLOSED)
    assert notices_of(desk.ledger.purge, [desk["a"].event.id]) == []
    desk.collect("b")
    assert desk.notices() == [("events_dropped", "b")]
    assert desk.books() == {"retained": 1, "dropped": 1}
