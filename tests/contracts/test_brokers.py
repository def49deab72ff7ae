"""The promises of every broker: the in-memory one, and RabbitMQ."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from flask_eventcollector.delivery.entries import State
from flask_eventcollector.events import BrokerState, Event, Outcome
from flask_eventcollector.messages.amqp_fields import POSSIBLE_DUPLICATE
from tests.helpers import DEADLINE

from .sides import BrokerCallbacks, MemorySide, RabbitMQSide, Side

BROKERS = ["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)]


@pytest.fixture(params=BROKERS)
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    """Each of the brokers in turn."""
    if request.param == "memory":
        yield from closing(MemorySide())
    else:
        yield from closing(RabbitMQSide(request.getfixturevalue("rabbitmq")))


@pytest.fixture(params=BROKERS)
def blockable(request: pytest.FixtureRequest) -> Iterator[Side]:
    """Each of the brokers in turn; the test may block it."""
    if request.param == "memory":
        yield from closing(MemorySide())
    else:
        yield from closing(RabbitMQSide(request.getfixturevalue("private_rabbitmq")))


def closing(side: Side) -> Iterator[Side]:
    try:
        yield side
    finally:
        side.close()


@pytest.fixture
def callbacks() -> Iterator[BrokerCallbacks]:
    """The broker's callbacks; at the end, it must have kept the rules."""
    callbacks = BrokerCallbacks()
    yield callbacks
    assert callbacks.wrongs == []


def start(side: Side, callbacks: BrokerCallbacks) -> None:
    side.broker.start(callbacks)
    callbacks.wait_for_state(BrokerState.READY)


def publish(
    side: Side, callbacks: BrokerCallbacks, queue: str, *payloads: object
) -> list[Event]:
    events = callbacks.give(queue, *payloads)
    side.broker.wake()
    return events


def ids(events: list[Event]) -> list[str]:
    return [event.id for event in events]


def counts(callbacks: BrokerCallbacks) -> dict[str, int]:
    stats = callbacks.ledger.stats()
    assert stats.balanced
    # Of an event that is new, nothing is known yet.
    names = [state.name.lower() for state in State if state is not State.NEW]
    found = {name: getattr(stats, name) for name in names}
    return {name: count for name, count in found.items() if count}


def test_it_becomes_ready_after_its_start(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    assert callbacks.ledger.stats().broker is BrokerState.READY


def test_a_second_start_does_no_harm(side: Side, callbacks: BrokerCallbacks) -> None:
    start(side, callbacks)
    start(side, callbacks)
    events = publish(side, callbacks, side.make_queue(), 1)
    callbacks.wait_for(Outcome.CONFIRMED, events)


def test_what_waits_before_it_is_ready_is_sent_then(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    events = callbacks.give(side.make_queue(), 1, 2)
    side.broker.wake()
    side.broker.start(callbacks)
    callbacks.wait_for(Outcome.CONFIRMED, events)


def test_a_wake_without_events_does_no_harm(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    for _ in range(100):
        side.broker.wake()
    events = publish(side, callbacks, side.make_queue(), 1)
    callbacks.wait_for(Outcome.CONFIRMED, events)


def test_an_event_arrives_as_it_was(side: Side, callbacks: BrokerCallbacks) -> None:
    start(side, callbacks)
    queue = side.make_queue()
    headers = {"text": "ü", "number": 2**40, "flag": True, "list": [1, "a"]}
    (event,) = callbacks.give(queue, {"naïve": "☃", "n": [1.5, None]}, headers=headers)
    side.broker.wake()
    callbacks.wait_for(Outcome.CONFIRMED, [event])
    assert side.arrived(queue) == [(event.id, event.body, headers)]


def test_an_empty_payload_and_no_headers_arrive_as_such(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    queue = side.make_queue()
    events = publish(side, callbacks, queue, "")
    callbacks.wait_for(Outcome.CONFIRMED, events)
    assert side.arrived(queue) == [(events[0].id, b'""', {})]


def test_events_arrive_in_order_and_are_confirmed_once_each(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    one, other = side.make_queue(), side.make_queue()
    first, second = [], []
    for number in range(50):
        first += publish(side, callbacks, one, *range(10 * number, 10 * number + 10))
        second += publish(side, callbacks, other, number)
    callbacks.wait_for(Outcome.CONFIRMED, first + second)
    assert [arrived.id for arrived in side.arrived(one)] == ids(first)
    assert [arrived.id for arrived in side.arrived(other)] == ids(second)
    assert sorted(callbacks.settled) == sorted(
        (event.id, Outcome.CONFIRMED) for event in first + second
    )


def test_what_is_over_the_limit_follows_without_another_wake(side: Side) -> None:
    callbacks = BrokerCallbacks(max_in_flight=7)
    queue = side.make_queue()
    start(side, callbacks)
    events = publish(side, callbacks, queue, *range(500))
    callbacks.wait_for(Outcome.CONFIRMED, events)
    assert [arrived.id for arrived in side.arrived(queue)] == ids(events)
    assert callbacks.wrongs == []


def test_events_from_many_threads_arrive_once_each(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    queue = side.make_queue()
    given: list[list[Event]] = [[] for _ in range(4)]

    def work(number: int) -> None:
        for turn in range(25):
            given[number] += publish(side, callbacks, queue, f"{number}-{turn}")

    threads = [threading.Thread(target=work, args=[n], daemon=True) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(DEADLINE)
    everything = [event for events in given for event in events]
    callbacks.wait_for(Outcome.CONFIRMED, everything)
    arrived = [each.id for each in side.arrived(queue)]
    assert sorted(arrived) == sorted(ids(everything))
    for events in given:
        assert [id for id in arrived if id in set(ids(events))] == ids(events)


# Refusals


def test_an_event_for_a_missing_queue_is_returned(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    queue = side.missing_queue()
    events = publish(side, callbacks, queue, 1)
    callbacks.wait_for(Outcome.RETURNED, events)
    assert queue in callbacks.reason(events[0])


def test_an_event_that_a_queue_refuses_is_nacked(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    queue = side.make_full_queue()
    events = publish(side, callbacks, queue, 1)
    callbacks.wait_for(Outcome.NACKED, events)
    assert queue in callbacks.reason(events[0])


def test_refusals_do_not_hold_up_other_queues(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    missing, full, queue = (
        side.missing_queue(),
        side.make_full_queue(),
        side.make_queue(),
    )
    events = []
    for number in range(20):
        callbacks.give(missing, f"missing-{number}")
        callbacks.give(full, f"full-{number}")
        events += publish(side, callbacks, queue, number)
    callbacks.wait_for(Outcome.CONFIRMED, events)
    assert [arrived.id for arrived in side.arrived(queue)] == ids(events)


def test_a_refused_event_is_the_same_when_it_is_taken_at_last(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    queue = side.missing_queue()
    events = publish(side, callbacks, queue, 1, 2)
    callbacks.wait_for(Outcome.RETURNED, events)
    side.declare(queue)
    callbacks.ledger.reopen()
    side.broker.wake()
    callbacks.wait_for(Outcome.CONFIRMED, events)
    assert side.arrived(queue) == [(event.id, event.body, {}) for event in events]


# Down and up


def test_what_is_on_its_way_when_it_goes_is_unknown(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    (event,) = lose(side, callbacks, side.make_queue())
    assert callbacks.outcomes(event) == [Outcome.UNKNOWN]
    assert counts(callbacks) == {"retained": 1, "confirmed": 1}
    assert callbacks.states[-1] is BrokerState.DOWN


def test_what_was_unknown_is_sent_again_and_marked(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    queue = side.make_queue()
    (event,) = lose(side, callbacks, queue)
    side.come_up()
    callbacks.wait_for(Outcome.CONFIRMED, [event])
    last = side.arrived(queue)[-1]
    assert last == (event.id, event.body, {POSSIBLE_DUPLICATE: True})


def test_what_was_confirmed_before_it_went_is_not_sent_again(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    queue = side.make_queue()
    before = publish(side, callbacks, queue, "before")
    callbacks.wait_for(Outcome.CONFIRMED, before)
    lost = lose(side, callbacks, queue)
    after = callbacks.give(queue, "after")
    side.come_up()
    callbacks.wait_for(Outcome.CONFIRMED, before + lost + after)
    assert callbacks.outcomes(before[0]) == [Outcome.CONFIRMED]
    arrived = list(dict.fromkeys(each.id for each in side.arrived(queue)))
    assert arrived == ids(before + lost + after)


def test_nothing_is_taken_while_it_is_down(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    queue = side.make_queue()
    side.go_down()
    callbacks.wait_for_state(BrokerState.DOWN)
    events = publish(side, callbacks, queue, 1, 2)
    assert counts(callbacks) == {"retained": 2}
    side.come_up()
    callbacks.wait_for(Outcome.CONFIRMED, events)
    assert [arrived.headers for arrived in side.arrived(queue)] == [{}, {}]


def test_it_reports_why_it_is_down(side: Side, callbacks: BrokerCallbacks) -> None:
    start(side, callbacks)
    side.go_down()
    callbacks.wait_for_state(BrokerState.DOWN)
    assert callbacks.ledger.stats().broker_error


def test_it_can_go_and_come_many_times(side: Side, callbacks: BrokerCallbacks) -> None:
    start(side, callbacks)
    queue = side.make_queue()
    for number in range(5):
        side.go_down()
        callbacks.wait_for_state(BrokerState.DOWN)
        events = publish(side, callbacks, queue, number)
        side.come_up()
        callbacks.wait_for(Outcome.CONFIRMED, events)
    assert [int(arrived.body) for arrived in side.arrived(queue)] == [0, 1, 2, 3, 4]


def lose(side: Side, callbacks: BrokerCallbacks, queue: str) -> list[Event]:
    """Make the broker unreachable while an event is in flight."""
    # RabbitMQ's channel opens with the first event, which would not be sent yet.
    callbacks.wait_for(
        Outcome.CONFIRMED, publish(side, callbacks, side.make_queue(), 0)
    )
    side.fall_silent()
    events = callbacks.give(queue, "lost")
    side.broker.wake()
    if isinstance(side, RabbitMQSide):
        callbacks.wait_until_taken(events)
    side.go_down()
    callbacks.wait_for_state(BrokerState.DOWN)
    callbacks.wait_for(Outcome.UNKNOWN, events)
    return events


# Blocked


def test_while_it_is_blocked_nothing_is_sent(
    blockable: Side, callbacks: BrokerCallbacks
) -> None:
    queue = blockable.make_queue()
    start(blockable, callbacks)
    first = block(blockable, callbacks, queue)
    second = publish(blockable, callbacks, queue, 2, 3)
    states = {e.event.id: e.state for e in callbacks.ledger._books}
    assert [states[event.id] for event in second] == [State.RETAINED] * 2
    assert callbacks.states[-1] is BrokerState.BLOCKED
    blockable.unblock()
    callbacks.wait_for(Outcome.CONFIRMED, first + second)
    arrived = blockable.arrived(queue)
    assert [each.id for each in arrived] == ids(first + second)
    assert [each.headers for each in arrived] == [{}] * 3


def test_it_reports_that_it_is_blocked_and_why(
    blockable: Side, callbacks: BrokerCallbacks
) -> None:
    queue = blockable.make_queue()
    start(blockable, callbacks)
    block(blockable, callbacks, queue)
    stats = callbacks.ledger.stats()
    assert (stats.broker, bool(stats.broker_error)) == (BrokerState.BLOCKED, True)


def test_a_blocked_one_can_be_closed(
    blockable: Side, callbacks: BrokerCallbacks
) -> None:
    queue = blockable.make_queue()
    start(blockable, callbacks)
    block(blockable, callbacks, queue)
    began = time.monotonic()
    blockable.broker.close(1)
    assert time.monotonic() - began < DEADLINE
    callbacks.wait_until_settled()
    assert counts(callbacks) == {"retained": 1}


def block(side: Side, callbacks: BrokerCallbacks, queue: str) -> list[Event]:
    """Block the broker; RabbitMQ reports that at the next event."""
    side.block()
    events = publish(side, callbacks, queue, 1)
    callbacks.wait_for_state(BrokerState.BLOCKED)
    return events


# The end


def test_closing_ends_it_within_the_timeout(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    assert side.broker.close(DEADLINE)


def test_closing_twice_is_closing_once(side: Side, callbacks: BrokerCallbacks) -> None:
    start(side, callbacks)
    assert side.broker.close(DEADLINE)
    assert side.broker.close(DEADLINE)


def test_closing_before_the_start_does_no_harm(side: Side) -> None:
    assert side.broker.close(DEADLINE)


def test_after_closing_nothing_is_taken(side: Side, callbacks: BrokerCallbacks) -> None:
    start(side, callbacks)
    queue = side.make_queue()
    side.broker.close(DEADLINE)
    publish(side, callbacks, queue, 1)
    side.broker.reconnect_now()
    side.broker.wake()
    assert counts(callbacks) == {"retained": 1}
    assert side.arrived(queue) == []


def test_closing_leaves_nothing_in_flight(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    side.fall_silent()
    publish(side, callbacks, side.make_queue(), 1)
    side.broker.close(0.1)
    # On a busy machine, its thread may need longer.
    callbacks.wait_until_settled()


def test_a_silent_one_can_still_be_closed(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    start(side, callbacks)
    side.fall_silent()
    began = time.monotonic()
    side.broker.close(0.1)
    assert time.monotonic() - began < DEADLINE


def test_one_that_is_down_can_be_closed(side: Side, callbacks: BrokerCallbacks) -> None:
    start(side, callbacks)
    side.go_down()
    callbacks.wait_for_state(BrokerState.DOWN)
    assert side.broker.close(DEADLINE)


def test_its_threads_are_named_and_daemonic_and_end_with_it(
    side: Side, callbacks: BrokerCallbacks
) -> None:
    before = set(threading.enumerate())
    start(side, callbacks)
    own = [t for t in set(threading.enumerate()) - before if t.name != "proxy"]
    assert all(thread.daemon for thread in own)
    assert all(thread.name == "eventcollector-io-contract" for thread in own)
    side.broker.close(DEADLINE)
    assert not [thread for thread in own if thread.is_alive()]


def test_it_shows_no_password(side: Side) -> None:
    assert "guest:guest" not in repr(side.broker)
