"""Events that expire, and events that are held back."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from flask_eventcollector import Event, Outcome, Properties, PublishResult
from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.brokers.rabbitmq.frames import MessageFrames
from flask_eventcollector.delivery import log
from flask_eventcollector.delivery.entries import Entry, Notice, State, Waiter
from flask_eventcollector.events import BrokerState
from flask_eventcollector.messages.options import read_options
from flask_eventcollector.testing import Captured
from tests.amqp import decoded_frames
from tests.helpers import Shop, open_shop, wait_until
from tests.parts import Desk, drain, make_event, notices_of
from tests.test_options import refusal


class Timed(Desk):
    """A desk whose events may have a delay, and may expire, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        super().__init__(**changes)
        # Whole seconds, since fractions are rounded to microseconds, up or down.
        ahead = int(time.time()) - int(self.clock())
        monkeypatch.setattr(time, "time", lambda: ahead + self.clock())

    def event(self, letter: str, queue: str = "q", **options: Any) -> Event:
        """An event that is enqueued now."""
        event = make_event(letter, queue, properties=read_options(options))
        return replace(event, microseconds=int(time.time() * 1e6))

    def add(self, letters: str, queue: str = "q", **options: Any) -> list[Entry]:
        """Collect one event for each letter."""
        entries: list[Entry] = []
        for letter in letters:
            event = self.event(letter, queue, **options)
            assert self.ledger.collect(entries, event)
        self.entries |= {entry.event.payload: entry for entry in entries}
        return entries

    def send(self, letters: str, queue: str = "q", **options: Any) -> None:
        """Collect events and hand them over."""
        self.ledger.hand_over(self.add(letters, queue, **options))


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Timed:
    return Timed(monkeypatch)


def reasons(notices: list[Notice]) -> list[tuple[str, str]]:
    return [(item.event.payload, item.reason) for item in notices]


# The options.


@pytest.mark.parametrize("name", ["expires_in", "delay"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("5", "is of type str: pass seconds, or a timedelta"),
        (True, "is of type bool: pass seconds"),
        (-1, "is out of range: pass "),
        (float("nan"), "is out of range: pass "),
        (float("inf"), "is out of range: pass "),
        (timedelta(days=5000), "is out of range: pass "),
    ],
)
def test_a_wrong_time_is_refused(name: str, value: Any, error: str) -> None:
    assert f"{name} {error}" in refusal(**{name: value})


def test_times_may_be_timedeltas() -> None:
    times = {"expires_in": timedelta(minutes=1), "delay": timedelta(seconds=1)}
    assert read_options(times) == Properties(expires_in=60.0, delay=1.0)
    assert read_options({"delay": 0}) == Properties()


def test_an_event_that_expires_before_it_is_due_is_refused() -> None:
    assert "expires_in is not more than delay" in refusal(expires_in=5, delay=5)


# Expiry.


def test_an_expired_event_is_dropped_when_its_turn_comes(desk: Timed) -> None:
    desk.send("ab", expires_in=5)
    desk.send("c")
    desk.pass_(5)
    assert desk.take() == "c"
    assert reasons(drain(desk.ledger)) == [("a", "expired"), ("b", "expired")]
    assert desk.books() == {"dropped": 2, "in_flight": 1}


def test_it_is_dropped_even_if_nothing_can_be_sent(desk: Timed) -> None:
    desk.send("a", expires_in=5)
    desk.is_(BrokerState.DOWN)
    desk.pass_(4)
    assert desk.ledger.keep_time() == pytest.approx(1)
    desk.pass_(1)
    assert desk.ledger.keep_time() == float("inf")
    assert desk.books() == {"dropped": 1}


def test_the_time_in_the_collector_counts(desk: Timed) -> None:
    entries = desk.add("a", expires_in=5)
    desk.pass_(6)
    desk.ledger.hand_over(entries)
    assert desk.take() == ""
    assert desk.books() == {"dropped": 1}


def test_what_is_in_flight_is_dropped_only_if_it_comes_back(desk: Timed) -> None:
    desk.send("ab", expires_in=5)
    assert desk.take() == "ab"
    desk.pass_(6)
    desk.ledger.keep_time()
    desk.settle("a")
    desk.refuse("b")
    desk.pass_(2)
    desk.ledger.keep_time()
    assert desk.books() == {"confirmed": 1, "dropped": 1}


def test_a_dead_event_expires_once_it_is_retried(desk: Timed) -> None:
    desk.send("a", expires_in=5)
    desk.take()
    desk.settle("a", Outcome.NACKED, reason="no", final=True)
    desk.pass_(9)
    desk.ledger.keep_time()
    assert desk.books() == {"dead": 1}
    desk.ledger.retry(None)
    assert desk.take() == ""
    assert desk.books() == {"dropped": 1}


def test_a_caller_that_waits_is_told(desk: Timed) -> None:
    desk.is_(BrokerState.CONNECTING)
    waiter = Waiter(patient=False)
    desk.ledger.hand_over(desk.add("a", expires_in=5), waiter)
    desk.pass_(5)
    desk.ledger.keep_time()
    assert waiter.done.wait(0)
    assert reasons(waiter.notices) == [("a", "expired")]
    assert waiter.result() == PublishResult(dropped=1)


# Memory. The limits count what has not ended.


def remembered(desk: Timed) -> int:
    """How many entries there are, apart from those that only a test remembers."""
    desk.entries.clear()
    gc.collect()
    return sum(isinstance(one, Entry) for one in gc.get_objects())


def test_what_is_confirmed_does_not_stay_until_it_would_have_expired(
    desk: Timed,
) -> None:
    before = remembered(desk)
    for _ in range(10):
        desk.send("abcdefghijklmnopqrst", expires_in=3600)
        desk.settle(desk.take())
    desk.ledger.keep_time()
    assert desk.books() == {"confirmed": 200}
    assert remembered(desk) - before < 100


def test_what_waits_is_not_searched_for_what_has_ended_again_and_again(
    desk: Timed,
) -> None:
    timetable = desk.ledger._moves.timetable
    desk.send("a" * 200, expires_in=3600)
    desk.ledger.keep_time()
    searched = timetable._expiring
    desk.send("b" * 50, delay=60)
    desk.ledger.keep_time()
    assert timetable._expiring is searched


def test_a_dead_event_that_was_retried_has_one_time(desk: Timed) -> None:
    desk.send("a", expires_in=3600)
    desk.take()
    for _ in range(200):
        desk.settle("a", Outcome.NACKED, reason="no", final=True)
        desk.ledger.retry(None)
        assert desk.take() == "a"
    assert len(desk.ledger._moves.timetable._expiring) < 100


@pytest.mark.parametrize("queues", [1, 100])
def test_what_expires_while_nothing_can_be_sent_is_forgotten(
    desk: Timed, queues: int
) -> None:
    desk.is_(BrokerState.DOWN)
    before = remembered(desk)
    desk.send("z", "queue 0")
    for number in range(200):
        desk.send("a", f"queue {number % queues}", expires_in=5)
        desk.pass_(5)
        desk.ledger.keep_time()
    assert desk.books() == {"retained": 1, "dropped": 200}
    assert remembered(desk) - before < 5
    assert len(desk.ledger._traffic.lanes) == 1
    desk.is_(BrokerState.READY)
    assert desk.take() == "z"


def test_what_is_purged_while_its_target_backs_off_is_forgotten(desk: Timed) -> None:
    desk.send("abc")
    assert desk.take(1) == "a"
    desk.refuse("a")
    desk.ledger.purge([desk[letter].event.id for letter in "abc"])
    assert desk.books() == {"dropped": 3}
    traffic = desk.ledger._traffic
    assert not traffic.lanes
    assert not traffic._refused


def test_what_is_left_is_the_expiration_of_the_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = make_event(1, properties=Properties(expires_in=60))
    now = event.enqueued_at.timestamp()
    monkeypatch.setattr(time, "time", lambda: now)
    assert expiration(event) == "60000"
    monkeypatch.setattr(time, "time", lambda: now + 44.9)
    assert int(expiration(event)) in (15_100, 15_101)
    monkeypatch.setattr(time, "time", lambda: now + 90)
    assert expiration(event) == "1"
    # The clock of the host that enqueued it is ahead.
    monkeypatch.setattr(time, "time", lambda: now - 30)
    assert expiration(event) == "60000"


def expiration(event: Event) -> str:
    frames = MessageFrames(1, "", app_id="shop", frame_max=4096, mandatory=True)
    _, header, _ = decoded_frames(frames.encode(Entry(event)))
    found: str = header.properties.expiration
    return found


# Delay.


def test_a_delayed_event_is_held_back_until_it_is_due(desk: Timed) -> None:
    desk.send("a", delay=5)
    assert desk.take() == ""
    assert desk.books() == {"delayed": 1}
    desk.pass_(5)
    assert desk.ledger.keep_time() == float("inf")
    assert desk.books() == {"retained": 1}
    assert desk.take() == "a"


def test_it_holds_up_no_others_of_its_target(desk: Timed) -> None:
    desk.send("a", delay=5)
    desk.send("b")
    assert desk.take() == "b"
    desk.send("c")
    desk.pass_(5)
    # It was handed over before.
    assert desk.take() == "ac"


def test_delayed_events_become_due_in_the_order_of_their_times(desk: Timed) -> None:
    desk.send("a", delay=9)
    desk.send("b", delay=3)
    desk.pass_(3)
    assert desk.take() == "b"
    desk.pass_(6)
    assert desk.take() == "a"


def test_a_flush_neither_waits_for_it_nor_sends_it(desk: Timed) -> None:
    desk.send("a", delay=5)
    assert desk.ledger.wait_until_flushed(time.monotonic())
    assert desk.ledger.undelivered() == 0
    desk.ledger.reopen()
    desk.ledger.retry(None)
    assert desk.take() == ""


def test_the_limits_count_it(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Timed(monkeypatch, max_events=2)
    desk.send("ab", delay=5)
    notices: list[Notice] = []
    desk.ledger.collect([], make_event("c"), into=notices)
    assert reasons(notices) == [("c", "overflow")]
    assert desk.books() == {"delayed": 2, "dropped": 1}


def test_a_caller_does_not_wait_for_it(desk: Timed) -> None:
    waiter = Waiter(patient=True)
    desk.ledger.hand_over(desk.add("a", delay=5), waiter)
    assert waiter.done.wait(0)
    result = desk.ledger.stop_waiting(waiter, ran_out=False)
    assert result == PublishResult(delayed=1)
    assert not result.complete
    assert waiter.notices == []


def test_it_can_be_purged(desk: Timed) -> None:
    desk.send("a", delay=5)
    assert reasons(notices_of(desk.ledger.purge, [desk["a"].event.id])) == [
        ("a", "purged")
    ]
    desk.pass_(5)
    assert desk.take() == ""


def test_it_keeps_its_delay_in_another_queue(desk: Timed) -> None:
    desk.send("a", delay=5)
    assert desk.ledger.redirect([desk["a"].event.id], "other") == 1
    assert desk.take() == ""
    desk.pass_(5)
    assert desk.take() == "a"
    assert desk["a"].event.target_queue == "other"


def test_its_age_counts_from_when_it_was_due(desk: Timed) -> None:
    desk.send("a", delay=100)
    desk.pass_(50)
    desk.send("b")
    assert desk.ledger.stats().oldest_age == pytest.approx(0, abs=0.01)
    desk.pass_(60)
    desk.ledger.keep_time()
    assert desk.ledger.stats().oldest_age == pytest.approx(60, abs=0.01)
    assert desk.take() == "ab"
    desk.settle("b")
    assert desk.ledger.stats().oldest_age == pytest.approx(10, abs=0.01)


def test_all_of_them_can_be_sent_at_once(desk: Timed) -> None:
    desk.send("ab", delay=5)
    assert desk.ledger.end_delays() == 2
    assert desk.take() == "ab"
    desk.pass_(5)
    assert desk.take() == ""


def test_it_expires_while_it_is_held_back_by_a_frozen_process(desk: Timed) -> None:
    desk.send("a", delay=5, expires_in=6)
    desk.pass_(7)
    assert desk.take() == ""
    assert desk.books() == {"dropped": 1}


def test_an_adopted_event_is_still_held_back(desk: Timed) -> None:
    event = desk.event("a", delay=5, expires_in=60)
    desk.pass_(2)
    entry = desk.entries["a"] = Entry(event)
    entry.state = State.RETAINED
    desk.ledger.adopt([entry], {})
    assert desk.books() == {"delayed": 1}
    assert desk.ledger.keep_time() == pytest.approx(3, abs=0.1)
    desk.pass_(3.1)
    assert desk.take() == "a"


def test_after_an_interrupted_step_the_times_are_kept(
    desk: Timed, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.send("a", delay=5)
    desk.send("b", expires_in=5)
    monkeypatch.setattr(desk.ledger._traffic.suspects, "reopen", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        desk.ledger.reopen()
    assert desk.books() == {"delayed": 1, "retained": 1}
    desk.pass_(5)
    assert desk.take() == "a"
    assert desk.books() == {"in_flight": 1, "dropped": 1}


def _interrupted() -> None:
    raise KeyboardInterrupt


# An app.


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


def test_a_delayed_event_is_sent_by_the_flusher(shop: Shop) -> None:
    with shop.events.auto_publish() as block:
        block.enqueue_event(1, "q", delay=0.05)
    wait_until(lambda: shop.sent("q") == [1], "it is due")


def test_an_expired_event_is_counted_logged_and_signalled(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with shop.events.capture() as captured:
        captured.broker_down()
        with shop.events.auto_publish() as block:
            block.enqueue_event(1, "q", expires_in=0.05)
        wait_until(lambda: shop.events.stats().dropped == 1, "it has expired")
        captured.flush()
    assert [event.reason for event in captured.dropped] == ["expired"]
    assert "Dropped 1 event for q: expired." in caplog.text


def test_the_log_says_once_that_memory_does_not_keep_delayed_events(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "INTERVAL", 0)
    settings = {"BROKER_URL": "amqp://localhost:1", "TESTING_BROKER": True}
    with caplog.at_level(logging.WARNING), open_shop(**settings) as shop:
        for number in range(2):
            with shop.events.auto_publish() as block:
                block.enqueue_event(number, "q", delay=60)
            wait_until(lambda: "in memory only" in caplog.text, "it is logged")
    assert caplog.text.count("Delayed events are in memory only") == 1
    assert "process ended before confirmation" in caplog.text


def test_nothing_is_logged_where_nothing_is_kept_anyway(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with shop.events.auto_publish() as block:
        block.enqueue_event(1, "q", delay=60)
    assert isinstance(shop.events.broker, MemoryBroker)
    shop.events.close(1)
    assert "in memory only" not in caplog.text


# The test kit.


def test_a_test_sends_delayed_events_at_once(shop: Shop) -> None:
    with shop.events.capture() as captured:
        assert captured.send_delayed() == 0
        with shop.events.auto_publish() as block:
            block.enqueue_event(1, "q", delay=timedelta(days=1), expires_in=100_000)
        captured.assert_enqueued("q", delay=86_400, expires_in=100_000.0)
        with pytest.raises(
            AssertionError, match=r"held back by its delay, due in 86\d"
        ):
            captured.assert_published("q")
        assert captured.send_delayed() == 1
        captured.assert_published("q", 1, delay=float)


def test_a_capture_without_events_sends_nothing(shop: Shop) -> None:
    captured: Captured = shop.events.capture()
    assert captured.send_delayed() == 0
