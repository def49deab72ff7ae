"""What is sent in which order, and what follows from each outcome."""

from __future__ import annotations

import pytest

from flask_eventcollector.delivery.entries import Entry, Waiter
from flask_eventcollector.events import BrokerState, Outcome
from tests.ledger.support import AWAY
from tests.parts import DELAY, Desk, drain, kinds_and_letters, make_event

REFUSALS = [Outcome.NACKED, Outcome.RETURNED]


# Sending, and outcomes


def test_a_broker_that_goes_down_gives_back_what_it_has_said_nothing_about(
    desk: Desk,
) -> None:
    waiter = Waiter(patient=False)
    desk.hand_over("a", waiter=waiter)
    desk.take()
    desk.is_(BrokerState.DOWN)
    assert desk.books() == {"retained": 1}
    assert desk["a"].possible_duplicate
    assert waiter.done.is_set()
    desk.is_(BrokerState.READY)
    assert desk.take() == "a"


def test_what_is_taken_is_in_flight(desk: Desk) -> None:
    desk.hand_over("ab")
    assert desk.take() == "ab"
    assert desk.books() == {"in_flight": 2}


def test_what_is_in_flight_is_not_taken_again(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    assert desk.take() == ""


def test_no_more_is_taken_than_is_asked_for(desk: Desk) -> None:
    desk.hand_over("abc")
    assert desk.take(2) == "ab"


def test_confirmed_events_end_and_are_reported(desk: Desk) -> None:
    desk.hand_over("a")
    desk.pass_(3)
    desk.take()
    desk.pass_(4)
    desk.settle("a")
    (notices,) = drain(desk.ledger)
    assert kinds_and_letters([notices]) == [("events_published", "a")]
    assert (notices.attempt, notices.elapsed) == (1, 7)
    assert desk.books() == {"confirmed": 1}


def test_what_is_unknown_is_sent_again_as_a_possible_duplicate(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    assert not desk["a"].possible_duplicate
    desk.settle("a", Outcome.UNKNOWN, reason="lost")
    assert desk.books() == {"retained": 1}
    assert desk.take() == "a"
    assert desk["a"].possible_duplicate


def test_unknown_outcomes_are_reported_as_failed(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    desk.settle("a", Outcome.UNKNOWN, reason="lost")
    (notices,) = drain(desk.ledger)
    assert kinds_and_letters([notices]) == [("publish_failed", "a")]
    assert (notices.outcome, notices.reason) == (Outcome.UNKNOWN, "lost")


def test_an_unknown_outcome_closes_no_lane_by_itself(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    assert desk.settle("ab", Outcome.UNKNOWN)
    assert desk.take() == "ab"


@pytest.mark.parametrize("outcome", [Outcome.UNKNOWN, None])
def test_an_outcome_can_ask_for_a_pause(desk: Desk, outcome: Outcome | None) -> None:
    desk.hand_over("ab")
    desk.pass_(1)
    desk.take()
    desk.settle("ab", outcome, back_off=True)
    assert desk.take() == ""
    assert desk.ledger.due() == DELAY


def test_what_was_not_sent_after_all_was_no_attempt(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    desk.settle("a", None)
    assert (desk["a"].attempts, desk.notices()) == (0, [])
    assert desk.books() == {"retained": 1}
    assert not desk["a"].possible_duplicate


def test_events_not_sent_for_a_reason_are_reported(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    desk.settle("a", None, reason="no such exchange")
    assert desk.notices() == [("publish_failed", "a")]


@pytest.mark.parametrize("outcome", REFUSALS)
def test_refused_events_are_retained_and_reported(desk: Desk, outcome: Outcome) -> None:
    desk.hand_over("a")
    desk.take()
    desk.settle("a", outcome, reason="no")
    (notices,) = drain(desk.ledger)
    assert (notices.kind.value, notices.outcome, notices.reason) == (
        "publish_failed",
        outcome,
        "no",
    )
    assert desk.books() == {"retained": 1}


@pytest.mark.parametrize("outcome", REFUSALS)
def test_what_is_refused_is_no_possible_duplicate(desk: Desk, outcome: Outcome) -> None:
    desk.hand_over("a")
    desk.take()
    desk.settle("a", outcome)
    assert not desk["a"].possible_duplicate


def test_what_is_refused_but_possibly_taken_is_a_possible_duplicate(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    desk.settle("a", Outcome.RETURNED, possibly_taken=True)
    assert desk["a"].possible_duplicate
    desk.ledger.reopen()
    desk.take()
    desk.settle("a", Outcome.NACKED)
    assert desk["a"].possible_duplicate


def test_what_the_broker_can_never_take_is_dead_at_once(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.settle("a", Outcome.NACKED, reason="too large", final=True)
    assert desk.notices() == [("events_dead", "a")]
    (dead,) = desk.ledger.dead()
    assert (dead.event.payload, dead.reason, dead.attempts) == ("a", "too large", 1)


def test_what_the_broker_can_never_take_holds_up_no_neighbour(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    desk.settle("a", Outcome.NACKED, final=True)
    desk.hand_over("b")
    assert desk.take() == "b"


@pytest.mark.parametrize("again", [*Outcome, None])
def test_a_second_settlement_of_an_event_is_ignored(
    desk: Desk, again: Outcome | None
) -> None:
    desk.hand_over("a")
    desk.take()
    desk.settle("a")
    desk.notices()
    desk.settle("a", again)
    assert (desk.notices(), desk.books()) == ([], {"confirmed": 1})


def test_a_settlement_of_an_event_that_was_dropped_meanwhile_is_ignored(
    desk: Desk,
) -> None:
    desk.hand_over("a")
    desk.take()
    desk.ledger.drop_all("the end")
    desk.settle("a")
    assert desk.books() == {"dropped": 1}


# Order


def test_events_of_one_target_go_in_the_order_of_their_hand_over(desk: Desk) -> None:
    later = desk.collect("b")
    desk.hand_over("a")
    desk.ledger.hand_over(later)
    assert desk.take() == "ab"


def test_new_events_go_behind_those_that_wait(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.hand_over("c")
    desk.settle("ab", Outcome.UNKNOWN)
    desk.hand_over("d")
    assert desk.take() == "abcd"


def test_new_events_do_not_overtake_refused_ones(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.refuse("ab")
    desk.hand_over("c")
    assert desk.take() == ""
    desk.ledger.reopen()
    assert desk.take() == "abc"


def test_the_outcomes_order_does_not_change_the_events(desk: Desk) -> None:
    desk.hand_over("abc")
    desk.take()
    desk.settle("cab", Outcome.UNKNOWN)
    assert desk.take() == "abc"


def test_the_same_queue_of_another_exchange_is_another_target(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    desk.refuse("a")
    other: list[Entry] = []
    desk.ledger.collect(other, make_event("b", exchange="other"))
    desk.ledger.hand_over(other)
    assert desk.take() == "b"


# When something could be sent


def test_nothing_is_due_without_events(desk: Desk) -> None:
    assert desk.ledger.due() is None


def test_what_waits_is_due_at_once(desk: Desk) -> None:
    desk.hand_over("a")
    assert desk.ledger.due() == 0


def test_nothing_is_due_after_everything_was_taken(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    assert desk.ledger.due() is None


def test_what_was_refused_is_due_after_the_delay(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    desk.refuse("a")
    assert desk.ledger.due() == DELAY
    desk.pass_(DELAY + 1)
    assert desk.ledger.due() == 0


@pytest.mark.parametrize("away", [*AWAY, BrokerState.IDLE, BrokerState.CONNECTING])
def test_nothing_is_due_until_the_broker_is_ready(
    desk: Desk, away: BrokerState
) -> None:
    desk.hand_over("a")
    desk.is_(away)
    assert desk.ledger.due() is None


def test_what_was_purged_is_due_no_longer_than_until_the_next_try(desk: Desk) -> None:
    desk.hand_over("a")
    desk.ledger.purge([desk["a"].event.id])
    desk.take()
    assert desk.ledger.due() is None


def test_closed_is_the_brokers_last_state(desk: Desk) -> None:
    desk.is_(BrokerState.CLOSED)
    desk.is_(BrokerState.READY)
    desk.is_(BrokerState.DOWN)
    assert desk.ledger.stats().broker is BrokerState.CLOSED
