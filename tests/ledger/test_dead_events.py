"""Events that were refused for too long."""

from __future__ import annotations

import pytest

from flask_eventcollector.delivery.entries import Entry, Settlement, State
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.events import BrokerState, Outcome
from tests.ledger.support import redirect
from tests.parts import Desk, books, kinds_and_letters, limits, make_event, notices_of


def refuse_for(desk: Desk, seconds: float) -> None:
    """Refuse the event "a" at once and for the last time after *seconds*."""
    desk.take()
    desk.refuse("a")
    desk.pass_(seconds)
    desk.ledger.reopen()
    desk.take()
    desk.refuse("a")


def test_what_is_refused_for_too_long_is_dead() -> None:
    desk = Desk(dead_after=100)
    desk.hand_over("a")
    refuse_for(desk, 100)
    assert desk.notices()[-1] == ("events_dead", "a")
    assert desk.books() == {"dead": 1}


def test_what_is_refused_for_less_is_tried_again() -> None:
    desk = Desk(dead_after=100)
    desk.hand_over("a")
    refuse_for(desk, 99)
    assert desk.books() == {"retained": 1}


@pytest.mark.parametrize("away", [BrokerState.DOWN, BrokerState.BLOCKED])
def test_the_time_in_which_the_broker_was_unreachable_does_not_count(
    away: BrokerState,
) -> None:
    desk = Desk(dead_after=100)
    desk.hand_over("a")
    desk.take()
    desk.refuse("a")
    desk.is_(away)
    desk.pass_(1000)
    desk.is_(BrokerState.READY)
    refuse_for(desk, 99)
    assert desk.books() == {"retained": 1}
    refuse_for(desk, 1)
    assert desk.books() == {"dead": 1}


def test_waiting_without_being_refused_kills_nothing() -> None:
    desk = Desk(dead_after=100)
    desk.hand_over("a")
    desk.pass_(1000)
    desk.take()
    desk.refuse("a")
    assert desk.books() == {"retained": 1}


def test_a_dead_event_can_be_retried_from_its_old_place() -> None:
    desk = Desk(dead_after=100)
    desk.hand_over("ab")
    refuse_for(desk, 100)
    assert desk.ledger.retry(None) == 1
    desk.settle("b", None)
    assert desk.take() == "ab"


def test_a_retried_event_is_tried_at_once(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.settle("a", Outcome.NACKED, final=True)
    desk.refuse("b")
    assert desk.take() == ""
    desk.ledger.retry(None)
    assert desk.take() == "ab"


def test_a_retried_event_has_all_its_time_again() -> None:
    desk = Desk(dead_after=100)
    desk.hand_over("a")
    refuse_for(desk, 100)
    desk.ledger.retry(None)
    desk.take()
    desk.refuse("a")
    assert desk.books() == {"retained": 1}


def test_only_the_chosen_dead_events_are_retried(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.settle("ab", Outcome.NACKED, final=True)
    assert desk.ledger.retry([desk["b"].event.id, "unknown"]) == 1
    assert desk.take() == "b"
    assert desk.books() == {"dead": 1, "in_flight": 1}


def test_only_what_is_dead_is_retried(desk: Desk) -> None:
    desk.hand_over("a")
    assert desk.ledger.retry([desk["a"].event.id]) == 0


@pytest.mark.parametrize("state", [State.DEAD, State.RETAINED])
def test_what_is_dead_or_retained_can_be_redirected(desk: Desk, state: State) -> None:
    desk.hand_over("a")
    if state is State.DEAD:
        desk.take()
        desk.settle("a", Outcome.NACKED, final=True)
    assert redirect(desk, "a") == 1
    assert desk.books() == {"retained": 1}
    [entry] = desk.ledger.take(10)
    assert (entry.event.target_queue, entry.target.queue) == ("new", "new")
    desk.settle("a")
    assert desk.books() == {"confirmed": 1}


def test_what_is_collected_or_in_flight_is_not_redirected(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    desk.collect("b")
    assert redirect(desk, "ab") == 0
    assert {e.event.target_queue for e in desk.entries.values()} == {"q"}
    assert desk.books() == {"in_flight": 1, "collected": 1}


def test_redirected_events_keep_their_places(desk: Desk) -> None:
    desk.hand_over("a")
    desk.hand_over("b", "new")
    desk.hand_over("cd")
    desk.hand_over("e", "new")
    assert redirect(desk, "ca") == 2
    assert desk.take() == "dabce"


def test_a_redirected_event_does_not_wait_for_its_former_target(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.refuse("ab")
    assert redirect(desk, "ab") == 2
    assert desk.ledger.problems()["problem_targets"] == 0
    assert desk.take() == "ab"


def test_an_event_that_was_refused_individually_is_redirected(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.refuse("a")
    desk.pass_(1)
    desk.settle("b")
    desk.take()
    desk.refuse("a")
    assert desk.ledger.problems()["problem_targets"] == 1
    assert redirect(desk, "a") == 1
    assert desk.ledger.problems()["problem_targets"] == 0
    assert desk.take() == "a"
    assert desk["a"].target.queue == "new"


def test_a_redirected_suspect_is_still_sent_alone(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.settle("ab", Outcome.UNKNOWN, suspect=True)
    assert redirect(desk, "a") == 1
    assert desk.ledger._traffic.suspects.count(desk["a"].target) == 1
    taken = [desk.take()]
    desk.settle(taken[0])
    taken.append(desk.take())
    assert sorted(taken) == ["a", "b"]


def test_a_redirect_in_the_middle_of_a_step_is_done_later(desk: Desk) -> None:
    desk.hand_over("a")
    with desk.ledger._lock:
        assert redirect(desk, "a") == 0
        assert desk["a"].target.queue == "q"
    assert desk.take() == "a"
    assert desk["a"].target.queue == "new"


def test_the_new_target_is_tried_at_once(desk: Desk) -> None:
    desk.hand_over("a", "new")
    desk.take()
    desk.refuse("a")
    desk.hand_over("b")
    assert redirect(desk, "b") == 1
    assert desk.take() == "ab"


def test_the_former_target_s_refusals_are_forgotten() -> None:
    desk = Desk(dead_after=100)
    desk.hand_over("a")
    refuse_for(desk, 99)
    assert desk.ledger.refusals(None, 0)[1]
    redirect(desk, "a")
    assert desk.ledger.refusals(None, 0)[1] == []
    assert desk["a"].reason == ""
    desk.pass_(100)
    desk.take()
    desk.refuse("a")
    assert desk.books() == {"retained": 1}


@pytest.mark.parametrize("state", [State.DEAD, State.RETAINED])
def test_what_is_dead_or_retained_can_be_purged(desk: Desk, state: State) -> None:
    desk.hand_over("a")
    if state is State.DEAD:
        desk.take()
        desk.settle("a", Outcome.NACKED, final=True)
    (notices,) = notices_of(desk.ledger.purge, [desk["a"].event.id])
    assert (kinds_and_letters([notices]), notices.reason) == (
        [("events_dropped", "a")],
        "purged",
    )
    assert desk.books() == {"dropped": 1}
    assert desk.take() == ""


def test_what_is_collected_or_in_flight_is_not_purged(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    desk.collect("b")
    ids = [entry.event.id for entry in desk.entries.values()]
    assert notices_of(desk.ledger.purge, ids) == []
    assert desk.books() == {"in_flight": 1, "collected": 1}


def test_all_that_was_handed_over_can_be_dropped(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.settle("a", Outcome.NACKED, final=True)
    desk.hand_over("c", "other")
    desk.collect("d")
    notices = notices_of(desk.ledger.drop_all, "the end")
    assert sorted(item.event.payload for item in notices) == ["a", "b", "c"]
    assert desk.books() == {"dropped": 3, "collected": 1}


def test_a_confirm_is_not_noted_if_nobody_wants_to_know() -> None:
    silent = Ledger(limits(), is_heard=lambda: False)
    silent.on_state_change(BrokerState.READY)
    entries: list[Entry] = []
    silent.collect(entries, make_event("a"))
    silent.hand_over(entries)
    silent.settle([Settlement(e, Outcome.CONFIRMED) for e in silent.take(1)])
    assert not silent.has_deferred
    assert books(silent) == {"confirmed": 1}
