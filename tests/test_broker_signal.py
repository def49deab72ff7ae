"""``broker_state_changed`` reports each state of the broker; words print as words."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flask
import pytest

import flask_eventcollector as package
from flask_eventcollector import (
    BrokerState,
    Outcome,
    Stats,
    broker_state_changed,
    publish_failed,
)
from flask_eventcollector.delivery.broker_status import BrokerStatus
from flask_eventcollector.events import Word
from tests.helpers import Shop, open_shop, wait_until
from tests.parts import Clock, Desk

Change = tuple[str, str]


@contextmanager
def changes_of(shop: Shop) -> Iterator[list[Change]]:
    """The changes of the broker's state that *shop* signals."""
    changes: list[Change] = []

    def changed(sender: flask.Flask, state: str, error: str, **extra: Any) -> None:
        assert flask.current_app == sender
        changes.append((str(state), error))

    with broker_state_changed.connected_to(changed, sender=shop):
        yield changes


def test_each_state_of_the_broker_is_signalled_in_order() -> None:
    with open_shop() as shop, changes_of(shop) as changes:
        shop.enqueue("a")
        shop.events.publish()
        shop.faults.go_down("it burns")
        shop.faults.block()
        shop.faults.come_up()
        shop.events.close(5)

    assert changes == [
        ("ready", ""),
        ("down", "it burns"),
        ("blocked", "it was blocked"),
        ("ready", ""),
        ("closed", ""),
    ]


def test_it_is_the_flusher_that_signals_it() -> None:
    heard = threading.Event()
    threads: list[str] = []

    def changed(sender: flask.Flask, **extra: Any) -> None:
        threads.append(threading.current_thread().name)
        heard.set()

    with open_shop() as shop, broker_state_changed.connected_to(changed, sender=shop):
        shop.enqueue("a")
        assert heard.wait(20)

    assert threads[0] == "eventcollector-flusher-shop"


def test_a_receiver_that_raises_delays_no_other_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(sender: flask.Flask, **extra: Any) -> None:
        raise ValueError("no")

    with (
        open_shop() as shop,
        broker_state_changed.connected_to(fail, sender=shop),
        changes_of(shop) as changes,
    ):
        shop.enqueue("a")
        shop.faults.go_down()
        shop.events.close(5)

    assert [state for state, _ in changes] == ["ready", "down", "closed"]
    assert "Signal receiver failed: broker-state-changed" in caplog.text


def test_a_broker_that_stalls_is_reported_until_it_confirms() -> None:
    with open_shop(CONFIRM_TIMEOUT=0.01) as shop, changes_of(shop) as changes:
        shop.silence()
        shop.enqueue("a")
        shop.events.publish()
        wait_until(lambda: ("stalled", "") in changes, "the broker stalls")


def test_a_repeated_state_is_no_change() -> None:
    status = BrokerStatus(Clock())
    for error in ("refused", "refused again"):
        status.change(BrokerState.DOWN, error)

    assert status.take_change() == (BrokerState.DOWN, "refused")
    assert status.take_change() is None


def test_the_latest_changes_wait_for_slow_receivers() -> None:
    status = BrokerStatus(Clock())
    for _ in range(1000):
        status.change(BrokerState.DOWN, "")
        status.change(BrokerState.READY, "")

    kept = []
    while change := status.take_change():
        kept.append(change.state)
    assert (len(kept), kept[-1]) == (100, BrokerState.READY)


def test_a_test_sees_the_states_of_its_broker() -> None:
    with open_shop() as shop, shop.events.capture() as captured:
        shop.enqueue("a")
        captured.broker_down()
        shop.events.publish()
        captured.flush()

        assert captured.broker_states == [BrokerState.READY, BrokerState.DOWN]


def test_only_the_first_failure_of_an_event_is_marked_as_such() -> None:
    desk = Desk(state=BrokerState.DOWN)
    desk.hand_over("a")
    desk.ledger.on_state_change(BrokerState.READY)
    for _ in range(2):
        desk.take()
        desk.settle("a", Outcome.NACKED)
        desk.ledger.reopen()
    desk.hand_over("b", queue="other")
    desk.take()
    desk.settle("b", Outcome.UNKNOWN)

    notices: list[Any] = []
    desk.ledger.take_deferred(notices)

    told = [(notice.event.payload, notice.first) for notice in notices]
    assert told == [("a", True), ("a", False), ("b", True)]


def test_a_refusal_after_an_outage_is_not_the_first_failure() -> None:
    with open_shop() as shop, shop.events.capture() as captured:
        captured.broker_down()

        def failed(sender: flask.Flask, first: bool, **extra: Any) -> None:
            firsts.append(first)

        firsts: list[bool] = []

        with publish_failed.connected_to(failed, sender=shop):
            shop.enqueue("a")
            shop.events.publish()
            captured.fail_next(outcome="nacked")
            captured.broker_up()
            captured.flush()
        assert firsts == [True, False]


def test_an_injected_outcome_may_be_a_word() -> None:
    with open_shop() as shop, shop.events.capture() as captured:
        shop.faults.fail_next("returned")  # type: ignore[arg-type]
        shop.enqueue("a")
        shop.events.publish()

        assert captured.retained[0].outcome is Outcome.RETURNED


def test_each_word_prints_as_itself() -> None:
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    members = [member for enum in Word.__subclasses__() for member in enum]
    assert BrokerState.IDLE in members
    for member in members:
        assert (str(member), f"{member}", "%s" % member) == (member.value,) * 3  # noqa: UP031


def test_stats_have_the_word_as_plain_text() -> None:
    assert Stats().as_dict()["broker"] == "idle"
