"""How long a caller waits for the confirms of its events."""

from __future__ import annotations

import pytest

from flask_eventcollector.delivery.entries import Waiter
from flask_eventcollector.delivery.traffic import SILENCE
from flask_eventcollector.events import BrokerState, Outcome, PublishResult
from tests.ledger.support import AWAY
from tests.parts import Desk, kinds_and_letters, letters

HOPEFUL = [BrokerState.IDLE, BrokerState.CONNECTING, BrokerState.READY]
REFUSALS = [Outcome.NACKED, Outcome.RETURNED]


# Waiting


def leave(desk: Desk, waiter: Waiter, *, ran_out: bool = False) -> PublishResult:
    return desk.ledger.stop_waiting(waiter, ran_out=ran_out)


def test_a_caller_without_events_waits_for_nothing(desk: Desk, waiter: Waiter) -> None:
    desk.hand_over("", waiter=waiter)
    assert waiter.done.is_set()


def test_a_caller_waits_until_its_last_event_is_confirmed(
    desk: Desk, waiter: Waiter
) -> None:
    desk.hand_over("ab", waiter=waiter)
    desk.take()
    desk.settle("a")
    assert not waiter.done.is_set()
    desk.settle("b")
    assert waiter.done.is_set()
    assert leave(desk, waiter) == PublishResult(confirmed=2)


@pytest.mark.parametrize("outcome", [*Outcome, None])
def test_any_outcome_ends_an_ordinary_wait(
    desk: Desk, waiter: Waiter, outcome: Outcome | None
) -> None:
    desk.hand_over("a", waiter=waiter)
    desk.take()
    desk.settle("a", outcome)
    assert waiter.done.is_set()


def test_what_happens_after_the_wait_is_told_after_the_callers_own_notices(
    desk: Desk, waiter: Waiter
) -> None:
    desk.hand_over("ab", waiter=waiter)
    desk.take()
    desk.settle("a")

    leave(desk, waiter)
    desk.settle("b")

    assert kinds_and_letters(waiter.notices) == [("events_published", "a")]
    assert desk.notices() == []
    desk.ledger.let_go(waiter)
    assert desk.notices() == [("events_published", "b")]
    desk.ledger.let_go(waiter)
    assert desk.notices() == []


def test_a_caller_without_a_pending_event_has_nothing_to_let_go(
    desk: Desk, waiter: Waiter
) -> None:
    desk.hand_over("a", waiter=waiter)
    desk.take()
    desk.settle("a")

    assert leave(desk, waiter).complete

    assert desk["a"].waiter is None
    assert waiter.successor is None


@pytest.mark.parametrize("outcome", [*Outcome, None])
def test_a_patient_caller_waits_for_confirm_or_refusal(
    desk: Desk, patient: Waiter, outcome: Outcome | None
) -> None:
    desk.hand_over("a", waiter=patient)
    desk.take()
    desk.settle("a", outcome)
    assert patient.done.is_set() == (outcome not in (None, Outcome.UNKNOWN))


def test_a_patient_caller_is_served_by_the_next_try(
    desk: Desk, patient: Waiter
) -> None:
    desk.hand_over("a", waiter=patient)
    desk.take()
    desk.settle("a", Outcome.UNKNOWN)
    desk.is_(BrokerState.DOWN)
    assert not patient.done.is_set()
    desk.is_(BrokerState.READY)
    desk.take()
    desk.settle("a")
    assert leave(desk, patient) == PublishResult(confirmed=1)


@pytest.mark.parametrize("state", HOPEFUL)
def test_an_ordinary_caller_waits_while_a_confirm_may_come(
    desk: Desk, waiter: Waiter, state: BrokerState
) -> None:
    desk.is_(state)
    desk.hand_over("a", waiter=waiter)
    assert not waiter.done.is_set()


@pytest.mark.parametrize("away", AWAY)
def test_an_ordinary_caller_does_not_wait_for_an_unreachable_broker(
    desk: Desk, waiter: Waiter, away: BrokerState
) -> None:
    desk.is_(away)
    desk.hand_over("a", waiter=waiter)
    assert waiter.done.is_set()
    assert leave(desk, waiter) == PublishResult(retained=1)


@pytest.mark.parametrize("away", AWAY)
def test_an_ordinary_caller_is_let_go_when_the_broker_goes(
    desk: Desk, waiter: Waiter, away: BrokerState
) -> None:
    desk.hand_over("a", waiter=waiter)
    desk.is_(away)
    assert waiter.done.is_set()


@pytest.mark.parametrize("away", [BrokerState.DOWN, BrokerState.BLOCKED])
def test_a_patient_caller_waits_even_while_the_broker_is_unreachable(
    desk: Desk, patient: Waiter, away: BrokerState
) -> None:
    desk.is_(away)
    desk.hand_over("a", waiter=patient)
    assert not patient.done.is_set()


def test_no_caller_waits_for_a_broker_that_is_closed(
    desk: Desk, patient: Waiter
) -> None:
    late = Waiter(patient=True)
    desk.hand_over("a", waiter=patient)
    desk.is_(BrokerState.CLOSED)
    desk.hand_over("b", waiter=late)
    assert patient.done.is_set()
    assert late.done.is_set()


def test_no_caller_waits_behind_events_that_were_refused(
    desk: Desk, patient: Waiter
) -> None:
    desk.hand_over("a")
    desk.take()
    desk.refuse("a")
    desk.hand_over("b", waiter=patient)
    assert patient.done.is_set()


def test_a_caller_is_let_go_when_what_is_before_its_events_is_refused(
    desk: Desk, patient: Waiter
) -> None:
    desk.hand_over("a")
    desk.take()
    desk.hand_over("b", waiter=patient)
    desk.hand_over("c", "another", waiter=patient)
    desk.refuse("a")
    assert letters([*patient.pending]) == "c"
    desk.take()
    desk.settle("c")
    assert patient.done.is_set()


def test_what_is_in_flight_to_a_target_that_refuses_others_is_waited_for(
    desk: Desk, waiter: Waiter
) -> None:
    desk.hand_over("a")
    desk.hand_over("b", waiter=waiter)
    desk.take()
    desk.refuse("a")
    assert not waiter.done.is_set()


@pytest.mark.parametrize("outcome", [None, Outcome.UNKNOWN])
def test_what_comes_back_to_a_target_that_refuses_others_is_waited_for_no_longer(
    desk: Desk, patient: Waiter, outcome: Outcome | None
) -> None:
    desk.hand_over("a")
    desk.hand_over("b", waiter=patient)
    desk.take()
    desk.refuse("a")
    desk.settle("b", outcome)
    assert patient.done.is_set()
    assert leave(desk, patient) == PublishResult(retained=1)


def test_only_a_patient_caller_waits_for_a_silent_target(
    desk: Desk, waiter: Waiter, patient: Waiter
) -> None:
    desk.hand_over("a", "silent")
    desk.take()
    desk.pass_(2 * SILENCE)
    desk.hand_over("b")
    desk.take()
    desk.settle("b")
    desk.hand_over("c", "silent", waiter=waiter)
    desk.hand_over("d", "silent", waiter=patient)
    assert waiter.done.is_set()
    assert not patient.done.is_set()
    leave(desk, waiter)
    (notice,) = waiter.notices
    assert kinds_and_letters([notice]) == [("publish_failed", "c")]
    assert "while events for others are confirmed" in notice.reason


def test_a_dropped_event_is_waited_for_no_longer(desk: Desk, patient: Waiter) -> None:
    desk.hand_over("a", waiter=patient)
    desk.ledger.drop_all("the end")
    assert patient.done.is_set()
    assert leave(desk, patient) == PublishResult(dropped=1)


def test_a_purged_event_is_waited_for_no_longer(desk: Desk, patient: Waiter) -> None:
    desk.hand_over("a", waiter=patient)
    desk.ledger.purge([desk["a"].event.id])
    assert patient.done.is_set()


def test_the_result_has_the_state_of_each_event(desk: Desk, waiter: Waiter) -> None:
    desk.hand_over("abcde", waiter=waiter)
    desk.take(4)
    desk.settle("a")
    desk.settle("b", Outcome.NACKED, final=True)
    desk.settle("c", Outcome.RETURNED)
    result = leave(desk, waiter, ran_out=True)
    assert result == PublishResult(confirmed=1, dead=1, in_flight=1, retained=2)


def test_a_waiters_notices_are_returned_to_its_caller(
    desk: Desk, waiter: Waiter
) -> None:
    desk.hand_over("a", waiter=waiter)
    desk.take()
    desk.settle("a")
    assert desk.notices() == []
    assert kinds_and_letters(waiter.notices) == [("events_published", "a")]


def test_notices_after_the_wait_are_left_to_the_flusher(
    desk: Desk, waiter: Waiter
) -> None:
    desk.hand_over("a", waiter=waiter)
    desk.take()
    leave(desk, waiter, ran_out=True)
    desk.ledger.let_go(waiter)
    desk.settle("a")
    assert desk.notices() == [("events_published", "a")]
    assert waiter.notices == []


@pytest.mark.parametrize("away", [BrokerState.DOWN, BrokerState.BLOCKED])
def test_the_caller_learns_why_nothing_was_sent(
    desk: Desk, waiter: Waiter, away: BrokerState
) -> None:
    desk.ledger.on_state_change(away, "it was lost")
    desk.hand_over("a", waiter=waiter)
    leave(desk, waiter)
    (notices,) = waiter.notices
    assert notices.reason == f"the broker is {away}: it was lost"
    assert notices.outcome is None


def test_the_caller_learns_that_it_waits_behind_refused_events(
    desk: Desk, waiter: Waiter
) -> None:
    desk.hand_over("a")
    desk.take()
    desk.refuse("a")
    desk.hand_over("b", waiter=waiter)
    leave(desk, waiter)
    (notices,) = waiter.notices
    assert kinds_and_letters([notices]) == [("publish_failed", "b")]
    assert "refused other events for the same target" in notices.reason


def test_the_caller_learns_nothing_about_pending_outcomes(
    desk: Desk, waiter: Waiter
) -> None:
    desk.hand_over("ab", waiter=waiter)
    desk.take(1)
    desk.is_(BrokerState.CONNECTING)
    leave(desk, waiter)
    assert waiter.notices == []


# Stalled


def stall(desk: Desk, letter: str = "z") -> None:
    waiter = Waiter(patient=False)
    desk.hand_over(letter, "stalled", waiter=waiter)
    desk.take()
    leave(desk, waiter, ran_out=True)


def test_a_wait_that_ran_out_stalls_the_broker(desk: Desk) -> None:
    stall(desk)
    assert desk.ledger.stats().broker is BrokerState.STALLED


def test_a_wait_that_was_given_up_stalls_nothing(desk: Desk, waiter: Waiter) -> None:
    desk.hand_over("a", waiter=waiter)
    leave(desk, waiter, ran_out=False)
    assert desk.ledger.stats().broker is BrokerState.READY


def test_a_wait_that_ends_at_its_last_moment_stalls_nothing(
    desk: Desk, waiter: Waiter
) -> None:
    desk.hand_over("a", waiter=waiter)
    desk.take()
    desk.settle("a")
    leave(desk, waiter, ran_out=True)
    assert desk.ledger.stats().broker is BrokerState.READY


def test_no_caller_waits_for_a_stalled_broker(desk: Desk, waiter: Waiter) -> None:
    stall(desk)
    desk.hand_over("a", waiter=waiter)
    assert waiter.done.is_set()


def test_a_stalled_broker_is_still_sent_to(desk: Desk) -> None:
    stall(desk)
    desk.hand_over("a")
    assert desk.take() == "a"


@pytest.mark.parametrize("outcome", [Outcome.CONFIRMED, *REFUSALS])
def test_an_answer_ends_the_stall(desk: Desk, outcome: Outcome) -> None:
    stall(desk)
    desk.settle("z", outcome)
    assert desk.ledger.stats().broker is BrokerState.READY


def test_an_outcome_without_an_answer_ends_no_stall(desk: Desk) -> None:
    stall(desk)
    desk.settle("z", Outcome.UNKNOWN)
    assert desk.ledger.stats().broker is BrokerState.STALLED
