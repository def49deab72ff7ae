"""Faults on demand, and what happens in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from flask_eventcollector import (
    BrokerState,
    Outcome,
    event_enqueued,
    events_published,
    publish_failed,
)
from flask_eventcollector.testing import Captured, event
from flask_eventcollector.testing.capture import Failure
from tests.helpers import DEADLINE, Recorder, Shop, in_thread, wait_until

from .shop_app import OpenShop, place, publish

# fail_next


@pytest.mark.parametrize("outcome", ["nacked", "returned", "unknown", Outcome.NACKED])
def test_the_next_event_fails_as_planned(
    shop: Shop, captured: Captured, outcome: Outcome | Failure
) -> None:
    captured.fail_next(outcome=outcome)

    publish(shop, 1)

    kept = captured.assert_retained("q", 1)
    assert kept.outcome is Outcome(outcome)
    assert kept.reason == f"the test called fail_next(): {Outcome(outcome).value}"
    captured.assert_nothing_published()
    assert shop.sent() == []


def test_what_has_failed_waits_for_a_flush(shop: Shop, captured: Captured) -> None:
    captured.fail_next(2)
    publish(shop, 1)

    assert not captured.flush()
    assert captured.assert_retained("q").attempts == 2
    assert captured.flush()

    assert captured.assert_published("q").attempts == 3
    assert shop.sent() == [1]


def test_the_flusher_leaves_it_alone(open_shop: OpenShop) -> None:
    shop = open_shop(RETRY_DELAY=0.001, RETRY_MAX_DELAY=0.001)
    with shop.events.capture() as captured:
        captured.fail_next(queue="held")
        publish(shop, 1, queue="held")
        # Another target shows that the flusher has run meanwhile.
        shop.faults.fail_next(Outcome.NACKED, n=3)
        publish(shop, 2, queue="free")
        wait_until(lambda: shop.sent("free"), "the flusher's tries")

        captured.assert_retained("held", times=1)
        assert captured.assert_retained("held").attempts == 1


def test_only_so_many_events_fail(shop: Shop, captured: Captured) -> None:
    captured.fail_next(2)
    for number in range(4):
        publish(shop, number, queue=f"q{number}")

    assert [e.payload for e in captured.retained] == [0, 1]
    assert [e.payload for e in captured.published] == [2, 3]


def test_only_events_of_the_queue_fail(shop: Shop, captured: Captured) -> None:
    captured.fail_next(10, queue="orders.*", outcome="returned")

    place(shop)

    captured.assert_retained("orders.created", times=1)
    captured.assert_published("mail.send", times=1)


def test_faults_happen_in_the_order_in_which_they_were_planned(
    shop: Shop, captured: Captured
) -> None:
    captured.fail_next(outcome="nacked")
    captured.fail_next(outcome="returned")
    for number in range(3):
        publish(shop, number, queue=f"q{number}")

    assert [e.outcome for e in captured.retained] == ["nacked", "returned"]
    captured.assert_published("q2")


def test_later_events_for_the_same_target_wait_behind(
    shop: Shop, captured: Captured
) -> None:
    captured.fail_next()
    publish(shop, 1)
    publish(shop, 2)

    assert [e.attempts for e in captured.retained] == [1, 0]
    captured.flush()

    assert [e.payload for e in captured.published] == [1, 2]
    assert shop.sent() == [1, 2]


def test_of_one_batch_only_the_planned_event_fails(
    shop: Shop, captured: Captured
) -> None:
    captured.fail_next()
    with shop.app_context(), shop.events.auto_publish():
        shop.enqueue(1, 2, 3)

    assert captured.retained == [event("q", 1)]
    assert captured.published == [event("q", 2), event("q", 3)]
    captured.flush()
    assert shop.sent() == [2, 3, 1]


def test_an_unknown_event_is_sent_again_with_the_mark(
    shop: Shop, captured: Captured
) -> None:
    captured.fail_next(outcome="unknown")
    publish(shop, 1)
    assert captured.flush()

    (sent,) = shop.broker.events("q")
    assert sent.headers == {"x-possible-duplicate": True}
    assert captured.assert_published("q").id == sent.id


def test_a_caller_that_waits_for_an_unknown_event_has_it_sent_again_at_once(
    shop: Shop, captured: Captured
) -> None:
    captured.fail_next(outcome="unknown")
    shop.enqueue(1)

    assert shop.events.publish(timeout=DEADLINE).complete

    assert captured.assert_published("q").attempts == 2


def test_a_caller_that_waits_for_a_refused_event_is_answered_at_once(
    shop: Shop, captured: Captured
) -> None:
    captured.fail_next(outcome="nacked")
    shop.enqueue(1)

    assert at_once(lambda: shop.events.publish(timeout=DEADLINE)).retained == 1


def test_a_fault_can_make_an_event_dead(open_shop: OpenShop) -> None:
    shop = open_shop(DEAD_AFTER=0)
    with shop.events.capture() as captured:
        captured.fail_next(outcome="returned")
        publish(shop, 1)

        (dead,) = captured.dead
        assert dead.reason == "the test called fail_next(): returned"
        assert shop.events.retry() == 1
        captured.flush()
        captured.assert_published("q", 1)


MISUSES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an outcome that is none": (
        {"outcome": "lost"},
        ValueError,
        "outcome must be one of 'nacked', 'returned', 'unknown', not 'lost'",
    ),
    "success": (
        {"outcome": "confirmed"},
        ValueError,
        "outcome must be one of 'nacked', 'returned', 'unknown', not 'confirmed'",
    ),
    "no events": ({"n": 0}, ValueError, "n must be 1 or more, not 0"),
    "half an event": ({"n": 0.5}, TypeError, "n must be an int, not of type float"),
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
def test_misuse_is_reported_at_once(
    captured: Captured, misuse: tuple[dict[str, Any], type[Exception], str]
) -> None:
    options, kind, words = misuse

    with pytest.raises(kind) as caught:
        captured.fail_next(**options)

    assert str(caught.value) == words


def test_faults_are_planned_only_inside_the_block(shop: Shop) -> None:
    with shop.events.capture() as captured:
        pass

    for plan in (captured.fail_next, captured.broker_down, captured.broker_up):
        with pytest.raises(RuntimeError, match=r"only inside the capture's block$"):
            plan()


# broker_down, broker_up


def test_while_the_broker_is_down_everything_is_retained(
    shop: Shop, captured: Captured
) -> None:
    captured.broker_down()

    place(shop)

    kept = captured.assert_retained("orders.created", {"sku": "A1"})
    assert kept.outcome is None
    assert kept.reason == "the broker is down: the test called broker_down()"
    assert shop.events.stats().broker is BrokerState.DOWN
    assert shop.books() == {"retained": 2}


def test_when_the_broker_is_up_again_a_flush_delivers(
    shop: Shop, captured: Captured
) -> None:
    captured.broker_down()
    place(shop)
    place(shop, "B2")
    captured.broker_up()

    assert captured.flush()

    assert captured.retained == []
    captured.assert_sequence(["orders.created", "mail.send"] * 2)
    assert shop.events.stats().broker is BrokerState.READY


def test_no_caller_waits_for_a_broker_that_is_down(
    shop: Shop, captured: Captured
) -> None:
    captured.broker_down()
    shop.enqueue(1)

    assert at_once(lambda: shop.events.publish(timeout=DEADLINE)).retained == 1
    assert not at_once(lambda: shop.events.flush(timeout=DEADLINE))
    assert not at_once(lambda: captured.flush(timeout=DEADLINE))


def test_who_waits_already_is_let_go(shop: Shop, captured: Captured) -> None:
    publish(shop, 0)
    shop.faults.block()
    waiting = threading.Event()

    def wait() -> None:
        shop.enqueue(1)
        waiting.set()
        shop.events.publish(timeout=DEADLINE)

    publisher = threading.Thread(target=wait, daemon=True)
    publisher.start()
    assert waiting.wait(DEADLINE)
    captured.broker_down()
    publisher.join(DEADLINE / 2)
    assert not publisher.is_alive()
    shop.faults.come_up()


def test_a_broker_that_was_never_used_is_as_before(
    shop: Shop, captured: Captured
) -> None:
    captured.broker_down()
    captured.broker_up()
    assert shop.events.stats().broker is BrokerState.IDLE

    publish(shop, 1)

    captured.assert_published("q")


def test_the_brokers_real_state_is_restored_afterwards(
    shop: Shop, captured: Captured
) -> None:
    publish(shop, 1)
    captured.broker_down()
    shop.broker.relay.on_state_change(BrokerState.BLOCKED, "an alarm")
    assert shop.events.stats().broker is BrokerState.DOWN

    captured.broker_up()

    assert shop.events.stats().broker is BrokerState.BLOCKED


def test_an_app_that_is_closed_stays_closed(shop: Shop, captured: Captured) -> None:
    captured.broker_down()
    publish(shop, 1)
    shop.events.close(1)

    captured.broker_up()

    assert shop.events.stats().broker is BrokerState.CLOSED
    assert captured.dropped == [event("q", 1)]


# The end of the block


def test_what_a_fault_has_kept_is_delivered_when_the_block_ends(shop: Shop) -> None:
    with shop.events.capture() as captured:
        captured.fail_next(queue="a")
        publish(shop, 1, queue="a")
        captured.broker_down()
        publish(shop, 2, queue="b")

    assert shop.books() == {"confirmed": 2}
    assert len(captured.retained) == 2
    captured.assert_nothing_published()


def test_the_next_capture_hears_nothing_of_the_last_one(shop: Shop) -> None:
    for _ in range(20):
        with shop.events.capture() as first:
            first.broker_down()
            publish(shop, 1)
        with shop.events.capture() as second:
            assert second.flush()
            second.assert_nothing_published()


def test_faults_that_are_left_over_end_with_the_block(shop: Shop) -> None:
    with shop.events.capture() as captured:
        captured.fail_next(100)

    publish(shop, 1)
    assert shop.books() == {"confirmed": 1}


def test_an_inner_block_leaves_the_outer_one_its_faults(
    shop: Shop, captured: Captured
) -> None:
    captured.fail_next(queue="a")
    captured.broker_down()
    with shop.events.capture() as inner:
        inner.fail_next(queue="b")
        inner.broker_up()
        publish(shop, 1, queue="c")
        inner.assert_published("c")

    publish(shop, 2, queue="c")
    assert captured.retained == [event("c", 2)]
    captured.broker_up()
    captured.flush()
    publish(shop, 3, queue="a")
    publish(shop, 4, queue="b")
    captured.assert_retained("a")
    captured.assert_published("b")


# flush


def test_a_flush_reports_what_no_caller_waited_for(
    shop: Shop, captured: Captured
) -> None:
    def audit(sender: Shop, events: Any, **extra: Any) -> None:
        if events[0].target_queue == "orders.created":
            shop.enqueue("audit", queue="audit")

    with events_published.connected_to(audit, sender=shop):
        for _ in range(20):
            place(shop)
        assert captured.flush()

    captured.assert_published("audit", times=20)


def test_a_flush_waits_for_a_receiver_that_the_flusher_has_called(
    shop: Shop, captured: Captured
) -> None:
    flusher_is_in, go_on = threading.Event(), threading.Event()

    def slow(sender: Shop, **extra: Any) -> None:
        if threading.current_thread().name.startswith("eventcollector-flusher"):
            flusher_is_in.set()
            go_on.wait(DEADLINE)

    publish(shop, 0)
    with events_published.connected_to(slow, sender=shop):
        captured.broker_down()
        publish(shop, 1)
        captured.broker_up()
        assert flusher_is_in.wait(DEADLINE)
        threading.Timer(0.05, go_on.set).start()
        assert captured.flush(DEADLINE)

        captured.assert_published("q", 1)


def test_a_flush_ends_in_time_although_a_receiver_does_not(
    shop: Shop, captured: Captured
) -> None:
    flusher_is_in, go_on = threading.Event(), threading.Event()

    def stuck(sender: Shop, **extra: Any) -> None:
        if threading.current_thread().name.startswith("eventcollector-flusher"):
            flusher_is_in.set()
            go_on.wait(DEADLINE)

    publish(shop, 0)
    with events_published.connected_to(stuck, sender=shop):
        captured.broker_down()
        publish(shop, 1)
        captured.broker_up()
        assert flusher_is_in.wait(DEADLINE)
        at_once(lambda: captured.flush(0.1))
        go_on.set()


def test_a_flush_ends_in_time_although_each_event_causes_another(
    shop: Shop, captured: Captured
) -> None:
    def another(sender: Shop, **extra: Any) -> None:
        shop.enqueue("again", queue="again")

    with events_published.connected_to(another, sender=shop):
        publish(shop, 1)
        at_once(lambda: captured.flush(0.1))


def test_a_flush_hears_of_events_that_were_abandoned(
    shop: Shop, captured: Captured
) -> None:
    in_thread(lambda: shop.enqueue(1))

    captured.flush()

    captured.assert_discarded("q", 1, reason="collector abandoned")


def test_the_signals_are_those_of_production(shop: Shop, captured: Captured) -> None:
    with Recorder(shop) as recorder:
        captured.fail_next()
        publish(shop, 1)
        captured.flush()

    assert recorder.names() == [
        signal.name.replace("-", "_")
        for signal in (event_enqueued, publish_failed, events_published)
    ]


def at_once(act: Callable[[], Any]) -> Any:
    """The result of *act*, which must return immediately."""
    began = time.monotonic()
    result = act()
    assert time.monotonic() - began < DEADLINE / 4
    return result
