"""The broker's state, and for how long it was ready."""

import pytest

from flask_eventcollector.delivery.broker_status import BrokerStatus
from flask_eventcollector.events import BrokerState
from tests.parts import Clock

STATES = [state for state in BrokerState if state is not BrokerState.STALLED]
HOPEFUL = [BrokerState.IDLE, BrokerState.CONNECTING, BrokerState.READY]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def presence(clock: Clock) -> BrokerStatus:
    return BrokerStatus(clock)


def test_it_begins_idle(presence: BrokerStatus) -> None:
    assert (presence.state, presence.seconds()) == (BrokerState.IDLE, 0)


def test_only_the_time_in_which_it_was_ready_counts(
    presence: BrokerStatus, clock: Clock
) -> None:
    for state in (BrokerState.CONNECTING, BrokerState.READY, BrokerState.DOWN):
        presence.change(state, "")
        clock.advance(10)
    assert presence.seconds() == 10


def test_the_times_in_which_it_was_ready_add_up(
    presence: BrokerStatus, clock: Clock
) -> None:
    for state in (BrokerState.READY, BrokerState.BLOCKED, BrokerState.READY):
        presence.change(state, "")
        clock.advance(10)
    assert presence.seconds() == 20


def test_being_told_twice_that_it_is_ready_counts_no_time_twice(
    presence: BrokerStatus, clock: Clock
) -> None:
    for _ in range(2):
        presence.change(BrokerState.READY, "")
        clock.advance(10)
    assert presence.seconds() == 20


@pytest.mark.parametrize("state", STATES)
def test_it_is_worth_waiting_for_while_it_answers_or_may(
    presence: BrokerStatus, state: BrokerState
) -> None:
    presence.change(state, "")
    assert presence.worth_waiting == (state in HOPEFUL)


@pytest.mark.parametrize("state", STATES)
def test_a_stalled_one_is_not_worth_waiting_for(
    presence: BrokerStatus, state: BrokerState
) -> None:
    presence.change(state, "")
    presence.stalled = True
    assert not presence.worth_waiting


@pytest.mark.parametrize("state", [BrokerState.READY, BrokerState.CONNECTING])
def test_stalled_is_shown_in_place_of_an_answering_state(
    presence: BrokerStatus, state: BrokerState
) -> None:
    presence.change(state, "")
    presence.stalled = True
    assert presence.shown is BrokerState.STALLED


@pytest.mark.parametrize("state", [BrokerState.DOWN, BrokerState.BLOCKED])
def test_what_is_worse_than_stalled_is_shown_as_it_is(
    presence: BrokerStatus, state: BrokerState
) -> None:
    presence.change(state, "")
    presence.stalled = True
    assert presence.shown is state


def test_a_new_state_ends_the_stall(presence: BrokerStatus) -> None:
    presence.stalled = True
    presence.change(BrokerState.READY, "")
    assert presence.shown is BrokerState.READY


def test_its_words_name_the_state_and_the_error(presence: BrokerStatus) -> None:
    presence.change(BrokerState.DOWN, "it was lost")
    assert str(presence) == "the broker is down: it was lost"


def test_without_an_error_its_words_name_the_state_alone(
    presence: BrokerStatus,
) -> None:
    presence.change(BrokerState.READY, "")
    assert str(presence) == "the broker is ready"
