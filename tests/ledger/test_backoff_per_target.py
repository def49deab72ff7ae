"""A target that refuses events is tried ever less often."""

from __future__ import annotations

import itertools

import pytest

from flask_eventcollector.delivery.entries import Settlement, State
from flask_eventcollector.delivery.traffic import MAX_IN_FLIGHT_BYTES, SILENCE
from flask_eventcollector.events import BrokerState, Outcome
from tests.parts import DELAY, Desk


def test_a_refused_target_is_left_alone_for_a_while(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    assert not desk.refuse("a")
    desk.settle("b", None)
    assert desk.take() == ""
    desk.pass_(DELAY)
    assert desk.take() == "a"


def test_a_refused_target_does_not_hold_up_another(desk: Desk) -> None:
    desk.hand_over("a", "missing")
    desk.take()
    desk.refuse("a")
    desk.hand_over("b", "missing")
    desk.hand_over("c", "there")
    assert desk.take() == "c"


def test_a_refused_target_is_tried_with_1_2_4_events(desk: Desk) -> None:
    desk.hand_over("abcdefgh")
    everything = desk.take()
    desk.pass_(1)
    desk.refuse(everything)
    for failures, tried in ((1, "a"), (2, "ab"), (3, "abcd")):
        desk.pass_(DELAY * failures)
        assert desk.take() == tried
        desk.pass_(1)
        desk.refuse(tried)


def test_a_target_that_takes_events_again_gets_twice_as_many_each_time(
    desk: Desk,
) -> None:
    desk.hand_over("abcdefg")
    everything = desk.take()
    desk.refuse(everything)
    desk.pass_(DELAY)
    assert desk.take() == "a"
    for confirmed, next_ in (("a", "bc"), ("bc", "defg")):
        assert desk.settle(confirmed)
        assert desk.take() == next_


@pytest.mark.parametrize("position", range(5))
def test_an_event_that_is_refused_alone_does_not_hold_up_its_neighbours(
    desk: Desk, position: int
) -> None:
    desk.hand_over("abcde")
    bad = "abcde"[position]
    for tries in itertools.count():
        taken = desk.take()
        desk.pass_(1)
        desk.settle(taken.replace(bad, ""))
        desk.refuse(taken.replace(taken.replace(bad, ""), "") and bad * (bad in taken))
        if desk.books().get("confirmed") == 4:
            break
        assert tries < 5
        desk.pass_(desk.ledger.due() or 0)


def test_an_event_refused_individually_is_delayed_longer_and_longer(desk: Desk) -> None:
    desk.hand_over("a")
    waits = []
    for neighbour in "bcdefgh":
        desk.hand_over(neighbour)
        desk.pass_(desk.ledger.due() or 0)
        if "a" in desk.take():
            desk.pass_(1)
            desk.refuse("a")
        desk.pass_(1)
        desk.settle(neighbour)
        waits.append(desk["a"].refusals)
    assert waits[-1] <= 4
    desk.pass_(10 * DELAY)
    assert desk.take() == "a"


def test_a_new_connection_tries_everything_at_once(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.refuse("ab")
    desk.is_(BrokerState.DOWN)
    desk.is_(BrokerState.READY)
    assert desk.take() == "ab"


def test_the_end_of_an_alarm_tries_no_refused_target(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.refuse("ab")
    desk.is_(BrokerState.BLOCKED)
    desk.is_(BrokerState.READY)
    assert desk.take() == ""


def test_10_000_targets_leave_nothing_behind() -> None:
    desk = Desk(max_in_flight=10_000, max_events=10_000)
    for number in range(10_000):
        desk.ledger.hand_over(desk.collect("a", f"queue-{number}"))
    desk.ledger.settle(
        Settlement(entry, Outcome.CONFIRMED) for entry in desk.ledger.take(10_000)
    )
    assert desk.books() == {"confirmed": 10_000}
    assert desk.ledger._traffic.lanes == {}


@pytest.mark.parametrize("end", ["purge", "drop_all"])
def test_what_ends_while_it_waits_leaves_nothing_behind(desk: Desk, end: str) -> None:
    desk.hand_over("a")
    if end == "purge":
        desk.ledger.purge([desk["a"].event.id])
    else:
        desk.ledger.drop_all("the end")
    desk.take()
    assert desk.ledger._traffic.lanes == {}


def test_suspects_of_a_target_that_refuses_one_wait_with_it(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.hand_over("c", "other")
    assert sorted(desk.take()) == ["a", "b", "c"]
    desk.settle("abc", Outcome.UNKNOWN, suspect=True)
    assert desk.take() == "a"
    desk.settle("a", Outcome.UNKNOWN, suspect=True)
    assert desk.take() == "c", "the only one that may go"
    desk.settle("c")
    assert desk.take() == ""
    assert desk.ledger.due() == DELAY
    desk.pass_(DELAY)
    assert desk.take() == "b", "the one that was not refused yet"


def suspected(desk: Desk, *queues: str) -> None:
    """Make one event for each of *queues*, with the same name, a suspect."""
    for queue in queues:
        desk.hand_over(queue, queue)
    names = "".join(queues)
    assert desk.take() == names
    desk.settle(names, Outcome.UNKNOWN, suspect=True)


def test_a_suspect_for_a_silent_target_holds_up_others_for_a_moment(desk: Desk) -> None:
    suspected(desk, "a", "b")
    desk.hand_over("c", "c")
    assert desk.take() == "a"
    desk.pass_(SILENCE / 2)
    assert desk.take() == ""
    assert desk.ledger.due() == SILENCE / 2
    desk.pass_(SILENCE / 2)
    assert desk.take() == "c"
    desk.settle("c")
    assert desk.take() == "b"


def test_a_suspect_that_ended_nothing_is_not_to_blame_later(desk: Desk) -> None:
    suspected(desk, "a", "b")
    assert desk.take() == "a"
    desk.pass_(SILENCE)
    assert desk.take() == "b"
    desk.settle("ab", Outcome.UNKNOWN, suspect=True, final=True)
    assert desk.books() == {"retained": 1, "dead": 1}
    assert desk["b"].state is State.DEAD


def test_the_suspects_of_a_silent_target_wait_for_a_word_from_it(desk: Desk) -> None:
    desk.hand_over("ab", "silent")
    desk.take()
    desk.settle("ab", Outcome.UNKNOWN, suspect=True)
    desk.hand_over("cd", "silent")
    assert desk.take() == "a"
    for _ in range(10):
        desk.pass_(SILENCE)
        assert desk.take() == ""
    desk.settle("a")
    desk.pass_(SILENCE)
    assert desk.take() == "cd"
    desk.settle("cd")
    assert desk.take() == "b"


def test_a_suspect_waits_a_moment_for_what_a_silent_target_has(desk: Desk) -> None:
    desk.hand_over("s", "silent")
    desk.take()
    suspected(desk, "a")
    assert desk.take() == ""
    desk.pass_(SILENCE)
    assert desk.take() == "a"


def test_a_suspect_that_is_refused_is_retried_later_and_later(desk: Desk) -> None:
    suspected(desk, "a")
    delays = []
    for _ in range(3):
        assert desk.take() == "a"
        desk.settle("a", Outcome.UNKNOWN, suspect=True)
        due = desk.ledger.due()
        assert due is not None
        delays.append(due - SILENCE)
        desk.pass_(due)
    assert delays == [DELAY, 2 * DELAY, 3 * DELAY]


def test_many_suspects_for_one_target_do_not_hold_up_another(desk: Desk) -> None:
    desk.hand_over("abc")
    desk.hand_over("z", "other")
    desk.take()
    desk.settle("abcz", Outcome.UNKNOWN, suspect=True)
    went = ""
    for _ in range(4):
        went += desk.take()
        desk.settle(went[-1])
    assert went == "azbc"


@pytest.mark.parametrize("size", [1, MAX_IN_FLIGHT_BYTES // 2])
def test_silent_targets_leave_room_for_others(size: int) -> None:
    desk = Desk(max_in_flight=2)
    desk.hand_over("ab", "silent", size=size)
    desk.hand_over("cd", "also silent", size=size)
    desk.hand_over("xyz", "healthy", size=size)
    assert desk.take() == "ab"
    desk.pass_(SILENCE)
    assert desk.take() == "c", "a scout"
    desk.pass_(SILENCE)
    assert desk.take() == "x", "another"
    desk.settle("x")
    desk.take()
    desk.pass_(SILENCE)
    for letter in "yz":
        desk.take()
        desk.settle(letter)
    assert desk.in_state(State.CONFIRMED) == "xyz"
