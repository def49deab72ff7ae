"""A flush waits until nothing is left."""

from __future__ import annotations

import time

from flask_eventcollector.delivery.entries import Settlement
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.events import BrokerState, Outcome
from tests.helpers import DEADLINE, thread
from tests.ledger.support import hand_over_one
from tests.parts import limits, make_event


def flush(held: Ledger, seconds: float = DEADLINE) -> bool:
    return held.wait_until_flushed(time.monotonic() + seconds)


def ready_ledger() -> Ledger:
    held = Ledger(limits())
    held.on_state_change(BrokerState.READY)
    return held


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
