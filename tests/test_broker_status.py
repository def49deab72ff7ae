"""The broker's state and its uptime."""

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
def status(clock: Clock) -> BrokerStatus:
    return BrokerStatus(clock)


def test_it_begins_idle(status: BrokerStatus) -> None:
    assert (status.state, status.seconds()) == (BrokerState.IDLE, 0)


def test_only_the_time_in_which_it_was_ready_counts(
    status: BrokerStatus, clock: Clock
) -> None:
    for state in (BrokerState.CONNECTING, BrokerState.READY, BrokerState.DOWN):
        status.change(state, "")
        clock.advance(10)
    assert status.seconds() == 10


def test_the_times_in_which_it_was_ready_add_up(
    status: BrokerStatus, clock: Clock
) -> None:
    for state in (BrokerState.READY, BrokerState.BLOCKED, BrokerState.READY):
        status.change(state, "")
        clock.advance(10)
    assert status.seconds() == 20


def test_a_repeated_ready_state_counts_no_time_twice(
    status: BrokerStatus, clock: Clock
) -> None:
    for _ in range(2):
        status.change(BrokerState.READY, "")
        clock.advance(10)
    assert status.seconds() == 20


@pytest.mark.parametrize("state", STATES)
def test_it_is_worth_waiting_for_while_it_answers_or_may(
    status: BrokerStatus, state: BrokerState
) -> None:
    status.change(state, "")
    assert status.worth_waiting == (state in HOPEFUL)


@pytest.mark.parametrize("state", STATES)
def test_a_stalled_one_is_not_worth_waiting_for(
    status: BrokerStatus, state: BrokerState
) -> None:
    status.change(state, "")
    status.stalled = True
    assert not status.worth_waiting


@pytest.mark.parametrize("state", [BrokerState.READY, BrokerState.CONNECTING])
def test_stalled_is_shown_in_place_of_an_answering_state(
    status: BrokerStatus, state: BrokerState
) -> None:
    status.change(state, "")
    status.stalled = True
    assert status.shown is BrokerState.STALLED


@pytest.mark.parametrize("state", [BrokerState.DOWN, BrokerState.BLOCKED])
def test_what_is_worse_than_stalled_is_shown_as_it_is(
    status: BrokerStatus, state: BrokerState
) -> None:
    status.change(state, "")
    status.stalled = True
    assert status.shown is state


def test_a_new_state_ends_the_stall(status: BrokerStatus) -> None:
    status.stalled = True
    status.change(BrokerState.READY, "")
    assert status.shown is BrokerState.READY


def test_its_text_names_the_state_and_the_error(status: BrokerStatus) -> None:
    status.change(BrokerState.DOWN, "it was lost")
    assert str(status) == "the broker is down: it was lost"


def test_without_an_error_its_text_names_only_the_state(
    status: BrokerStatus,
) -> None:
    status.change(BrokerState.READY, "")
    assert str(status) == "the broker is ready"
