"""The state of each event, and what follows from it."""

from __future__ import annotations

import itertools
import string
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from flask_eventcollector.delivery.entries import (
    Entry,
    Notice,
    Settlement,
    State,
    Waiter,
)
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.delivery.traffic import MAX_IN_FLIGHT_BYTES, SILENCE
from flask_eventcollector.events import BrokerState, Outcome, PublishResult
from tests.helpers import DEADLINE, thread
from tests.parts import (
    DELAY,
    LEDGER_MODULES,
    Desk,
    abandon,
    books,
    drain,
    interruptions,
    kinds_and_letters,
    letters,
    limits,
    make_event,
    notices_of,
)

REFUSALS = [Outcome.NACKED, Outcome.RETURNED]
AWAY = [BrokerState.DOWN, BrokerState.BLOCKED, BrokerState.CLOSED]
HOPEFUL = [BrokerState.IDLE, BrokerState.CONNECTING, BrokerState.READY]

OVERFLOWS: dict[str, dict[str, Any]] = {
    "drop newest": {},
    "drop oldest": {"drop_oldest": True},
    "reject": {"reject": True},
}

#: Names of events whose only purpose is to reach a limit.
MANY = string.ascii_uppercase


@pytest.fixture
def desk() -> Desk:
    return Desk()


# Collecting


def test_an_event_is_collected_first(desk: Desk) -> None:
    entries = desk.collect("a")
    assert letters(entries) == "a"
    assert desk.books() == {"collected": 1}


def test_discarded_events_are_counted_and_reported(desk: Desk) -> None:
    entries = desk.collect("ab")
    notices = notices_of(desk.ledger.discard, entries, "cleared")
    assert kinds_and_letters(notices) == [
        ("events_discarded", "a"),
        ("events_discarded", "b"),
    ]
    assert {item.reason for item in notices} == {"cleared"}
    assert (entries, desk.books()) == ([], {"discarded": 2})


def test_discarding_again_discards_nothing(desk: Desk) -> None:
    entries = desk.collect("a")
    copy = list(entries)
    desk.ledger.discard(entries, "cleared")
    assert notices_of(desk.ledger.discard, copy, "cleared") == []


def test_what_was_handed_over_is_not_discarded(desk: Desk) -> None:
    entries = desk.collect("a")
    copy = list(entries)
    desk.ledger.hand_over(entries)
    assert notices_of(desk.ledger.discard, copy, "too late") == []
    assert desk.books() == {"retained": 1}


def test_what_an_abandoned_collector_held_is_discarded(desk: Desk) -> None:
    abandon(desk.ledger, desk.collect("ab"))
    notices = notices_of(desk.ledger.discard_abandoned)
    assert kinds_and_letters(notices) == [
        ("events_discarded", "a"),
        ("events_discarded", "b"),
    ]
    assert notices_of(desk.ledger.discard_abandoned) == []


def test_all_that_no_collector_handed_over_can_be_discarded(desk: Desk) -> None:
    desk.hand_over("a")
    desk.collect("b")
    notices = notices_of(desk.ledger.discard_collected, "the end")
    assert kinds_and_letters(notices) == [("events_discarded", "b")]
    assert desk.books() == {"retained": 1, "discarded": 1}


def test_a_step_in_the_middle_of_another_reports_later_and_once(desk: Desk) -> None:
    first = desk.collect("a")
    notices = notices_of(desk.ledger.discard, desk.collect("b"), "cleared")
    with desk.ledger._lock:
        assert desk.ledger.discard(first, "cleared", into=notices) == 0
    assert desk.books() == {"discarded": 2}
    # Its caller has dispatched the list before.
    assert kinds_and_letters(notices) == [("events_discarded", "b")]
    assert desk.notices() == [("events_discarded", "a")]


def test_a_hand_over_empties_the_collector(desk: Desk) -> None:
    entries = desk.collect("ab")
    desk.ledger.hand_over(entries)
    assert (entries, desk.books()) == ([], {"retained": 2})


def test_a_second_hand_over_of_the_same_events_does_nothing(desk: Desk) -> None:
    entries = desk.collect("a")
    copy = list(entries)
    desk.ledger.hand_over(entries)
    desk.take()
    desk.ledger.hand_over(copy)
    assert desk.books() == {"in_flight": 1}
    assert desk.take() == ""


class Hooked(list[Notice]):
    """Calls a function before its first item."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def append(self, item: Notice) -> None:
        if not self:
            self._call()
        super().append(item)


@pytest.mark.parametrize("other", ["nothing else", "what has ended"])
def test_what_is_added_in_the_middle_of_a_hand_over_stays_in_the_collector(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    entries = desk.collect("a")
    if other == "what has ended":
        entries = [*entries, *(ended := desk.collect("x"))]
        desk.ledger.discard(ended, "rolled back")

    def clock() -> float:
        # As a destructor does, or another thread.
        monkeypatch.undo()
        desk.ledger.collect(entries, make_event("b"))
        return desk.clock()

    monkeypatch.setattr(desk.ledger._moves, "_clock", clock)
    desk.ledger.hand_over(entries)
    assert letters(entries) == "b"
    assert letters(desk.ledger.still_collected(entries)) == "b"
    desk.ledger.hand_over(entries)
    assert (entries, desk.take()) == ([], "ab")


def test_what_is_added_in_the_middle_of_a_discard_stays_in_the_collector(
    desk: Desk,
) -> None:
    entries = desk.collect("ab")
    notices = Hooked(lambda: desk.ledger.collect(entries, make_event("c")))
    desk.ledger.discard(entries, "cleared", into=notices)
    assert kinds_and_letters(notices) == [
        ("events_discarded", "a"),
        ("events_discarded", "b"),
    ]
    assert letters(entries) == "c"
    assert desk.books() == {"discarded": 2, "collected": 1}


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


# Backoff per target


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


# Dead events


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


def redirect(desk: Desk, letters: str, queue: str = "new") -> int:
    return desk.ledger.redirect([desk[letter].event.id for letter in letters], queue)


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


# Limits


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


# Waiting


@pytest.fixture
def waiter() -> Waiter:
    return Waiter(patient=False)


@pytest.fixture
def patient() -> Waiter:
    return Waiter(patient=True)


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


# Flushing


def flush(held: Ledger, seconds: float = DEADLINE) -> bool:
    return held.wait_until_flushed(time.monotonic() + seconds)


def ready_ledger() -> Ledger:
    held = Ledger(limits())
    held.on_state_change(BrokerState.READY)
    return held


def hand_over_one(held: Ledger) -> None:
    entries: list[Entry] = []
    held.collect(entries, make_event("a"))
    held.hand_over(entries)


def test_a_flush_of_nothing_is_done() -> None:
    assert flush(ready_ledger(), 0)


def test_a_flush_gives_up_at_its_deadline() -> None:
    held = ready_ledger()
    hand_over_one(held)
    assert not flush(held, 0.01)


def test_a_flush_does_not_give_up_what_is_on_its_way() -> None:
    held = ready_ledger()
    hand_over_one(held)
    assert held.take(1)
    began = time.monotonic()
    assert not flush(held, 0.05)
    assert time.monotonic() - began >= 0.05


def test_a_flush_waits_for_the_last_confirm() -> None:
    held = ready_ledger()
    hand_over_one(held)
    with thread(lambda: confirm_all(held)):
        assert flush(held)


def test_a_flush_ends_when_the_broker_has_refused_the_rest() -> None:
    held = ready_ledger()
    hand_over_one(held)
    with thread(lambda: refuse_all(held)):
        began = time.monotonic()
        assert not flush(held)
    assert time.monotonic() - began < DEADLINE


def test_a_flush_ends_when_the_rest_is_dropped() -> None:
    held = ready_ledger()
    hand_over_one(held)
    with thread(lambda: held.drop_all("the end")):
        assert flush(held)


def test_a_flush_does_not_wait_for_collected_events() -> None:
    held = ready_ledger()
    held.collect([], make_event())
    assert flush(held, 0)


def confirm_all(held: Ledger) -> None:
    held.settle([Settlement(e, Outcome.CONFIRMED) for e in held.take(10)])


def refuse_all(held: Ledger) -> None:
    held.settle([Settlement(e, Outcome.RETURNED) for e in held.take(10)])


# Several threads


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


# An interrupted step


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
