"""The path of a batch: to the broker, or into the backlog."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from blinker import NamedSignal

from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.delivery.broker import BrokerCallbacks
from flask_eventcollector.delivery.delivery import Delivery
from flask_eventcollector.errors import BacklogFull
from flask_eventcollector.events import BrokerState, Outcome, PublishResult
from flask_eventcollector.testing import FaultInjector
from tests.helpers import DEADLINE, thread, wait_until
from tests.parts import (
    ManualBroker,
    SignalLog,
    abandon,
    books,
    collect,
    delivering,
    make_delivery,
    make_event,
)

AWAY = [BrokerState.DOWN, BrokerState.BLOCKED]


@pytest.fixture
def broker() -> ManualBroker:
    return ManualBroker()


@pytest.fixture
def signal_log() -> SignalLog:
    return SignalLog()


@pytest.fixture
def delivery(broker: ManualBroker, signal_log: SignalLog) -> Iterator[Delivery]:
    with delivering(broker, signal_log) as delivery:
        yield delivery


def flusher(name: str = "test") -> list[threading.Thread]:
    name = f"eventcollector-flusher-{name}"
    return [thread for thread in threading.enumerate() if thread.name == name]


# Start and end


def test_no_thread_and_no_connection_begins_before_the_first_event(
    broker: ManualBroker,
) -> None:
    with delivering(broker, name="idle") as delivery:
        delivery.stats()
        assert delivery.flush(0)
        assert flusher("idle") == []
        assert "start" not in broker.calls


def test_the_first_event_starts_it_once(broker: ManualBroker) -> None:
    with delivering(broker, name="started") as delivery:
        collect(delivery, 1, 2)
        assert len(flusher("started")) == 1
        assert broker.calls.count("start") == 1


def test_its_thread_is_daemonic() -> None:
    with delivering(MemoryBroker(), name="daemon") as delivery:
        collect(delivery, 1)
        assert flusher("daemon")[0].daemon


def test_its_thread_ends_with_it() -> None:
    with delivering(MemoryBroker(), name="ended") as delivery:
        collect(delivery, 1)
        delivery.close(DEADLINE)
        assert flusher("ended") == []


class SlowBroker(ManualBroker):
    """A broker that starts so slowly that another thread would start it, too."""

    def start(self, callbacks: BrokerCallbacks) -> None:
        super().start(callbacks)
        threading.Event().wait(0.1)


def test_many_threads_start_it_once() -> None:
    broker = SlowBroker()
    start = threading.Barrier(8)

    def begin() -> None:
        start.wait(DEADLINE)
        collect(shared, 1)

    with delivering(broker, name="race") as shared:
        threads = [threading.Thread(target=begin, daemon=True) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(DEADLINE)
        assert broker.calls.count("start") == len(flusher("race")) == 1


def test_it_can_be_stopped_without_waiting() -> None:
    signal_log = SignalLog()
    delivery = make_delivery(ManualBroker(), signal_log, name="soon")
    delivery.hand_over(collect(delivery, 1))
    collect(delivery, 2)
    delivery.request_stop()
    wait_until(lambda: not flusher("soon"), "the thread's end")
    assert signal_log.payloads("events-dropped") == [1]
    assert signal_log.payloads("events-discarded") == [2]
    assert books(delivery) == {"dropped": 1, "discarded": 1}


# Collecting


def test_a_full_backlog_is_an_error_that_names_the_queue_and_the_cure() -> None:
    with delivering(MemoryBroker(), max_events=1, reject=True) as delivery:
        collect(delivery, 1)
        with pytest.raises(BacklogFull, match=r"'orders'.*EVENTCOLLECTOR_MAX_EVENTS"):
            delivery.collect([], make_event(2, "orders"))
        assert books(delivery) == {"collected": 1}


def test_an_overflow_is_signalled_in_the_callers_thread() -> None:
    signal_log = SignalLog()
    with delivering(MemoryBroker(), signal_log, max_events=1) as delivery:
        collect(delivery, 1, 2)
        assert signal_log.payloads("events-dropped") == [2]
    here = {threading.current_thread().name}
    assert signal_log.threads["events-dropped"] == here


def test_discarded_events_are_counted_and_reported(
    delivery: Delivery, signal_log: SignalLog
) -> None:
    assert delivery.discard(collect(delivery, 1, 2), "cleared") == 2
    assert signal_log.payloads("events-discarded") == [1, 2]
    assert signal_log.reasons("events-discarded") == ["cleared"]


def test_what_is_abandoned_is_discarded_by_the_flusher(
    delivery: Delivery, signal_log: SignalLog
) -> None:
    abandon(delivery, collect(delivery, 1))
    signal_log.wait_for("events-discarded", [1])
    assert signal_log.reasons("events-discarded") == ["collector abandoned"]


def test_what_is_abandoned_is_in_no_later_stats(delivery: Delivery) -> None:
    abandon(delivery, collect(delivery, 1))
    assert books(delivery) == {"discarded": 1}


# Publishing


def test_a_publish_waits_for_the_confirms(
    broker: ManualBroker, delivery: Delivery
) -> None:
    results: list[PublishResult] = []
    entries = collect(delivery, 1, 2)
    with thread(lambda: results.append(delivery.publish(entries))):
        broker.wait_for(2)
        broker.settle()
    assert results == [PublishResult(confirmed=2)]


def test_a_publish_of_nothing_is_complete(delivery: Delivery) -> None:
    assert delivery.publish([]) == PublishResult()


def test_a_publish_waits_no_longer_than_the_confirm_timeout(
    broker: ManualBroker,
) -> None:
    with delivering(broker, confirm_timeout=0.01) as delivery:
        result = delivery.publish(collect(delivery, 1))
    assert result == PublishResult(in_flight=1)


def test_a_publish_waits_no_longer_than_its_timeout(delivery: Delivery) -> None:
    assert delivery.publish(collect(delivery, 1), 0.01) == PublishResult(in_flight=1)


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_publish_without_time_does_not_wait_and_stalls_nothing(
    delivery: Delivery, timeout: float
) -> None:
    delivery.publish(collect(delivery, 1), timeout)
    assert delivery.stats().broker is BrokerState.READY


def test_after_a_wait_that_timed_out_no_caller_waits(
    broker: ManualBroker, delivery: Delivery
) -> None:
    delivery.publish(collect(delivery, 1), 0.01)
    assert delivery.stats().broker is BrokerState.STALLED
    began = time.monotonic()
    assert delivery.publish(collect(delivery, 2)) == PublishResult(in_flight=1)
    assert time.monotonic() - began < DEADLINE
    broker.settle()
    assert delivery.stats().broker is BrokerState.READY


@pytest.mark.parametrize("away", AWAY)
def test_an_ordinary_publish_does_not_wait_while_the_broker_is_unreachable(
    broker: ManualBroker, delivery: Delivery, signal_log: SignalLog, away: BrokerState
) -> None:
    collect(delivery, 0)
    broker.becomes(away, "it was lost")
    began = time.monotonic()
    assert delivery.publish(collect(delivery, 1)) == PublishResult(retained=1)
    assert time.monotonic() - began < DEADLINE
    assert signal_log.payloads("publish-failed") == [1]
    assert signal_log.reasons("publish-failed") == [
        f"the broker is {away}: it was lost"
    ]


@pytest.mark.parametrize("away", AWAY)
def test_a_patient_publish_waits_until_the_broker_is_back(
    broker: ManualBroker, delivery: Delivery, away: BrokerState
) -> None:
    results: list[PublishResult] = []
    collect(delivery, 0)
    broker.becomes(away)
    entries = collect(delivery, 1)
    with thread(lambda: results.append(delivery.publish(entries, DEADLINE))):
        wait_until(lambda: not entries, "the hand-over")
        broker.becomes(BrokerState.READY)
        broker.wait_for(1)
        broker.settle()
    assert results == [PublishResult(confirmed=1)]


def test_a_publish_that_waits_is_let_go_when_the_broker_goes(
    broker: ManualBroker, delivery: Delivery
) -> None:
    results: list[PublishResult] = []
    entries = collect(delivery, 1)
    with thread(lambda: results.append(delivery.publish(entries))):
        broker.wait_for(1)
        broker.state = BrokerState.DOWN
        broker.settle(Outcome.UNKNOWN)
        broker.becomes(BrokerState.DOWN)
    assert results == [PublishResult(retained=1)]


def test_what_a_caller_waits_for_is_signalled_in_its_thread(
    signal_log: SignalLog,
) -> None:
    with delivering(MemoryBroker(), signal_log) as delivery:
        delivery.publish(collect(delivery, 1))
    assert signal_log.threads["events-published"] == {threading.current_thread().name}


def test_what_no_caller_waits_for_is_signalled_by_the_flusher(
    signal_log: SignalLog,
) -> None:
    with delivering(MemoryBroker(), signal_log, name="signals") as delivery:
        delivery.hand_over(collect(delivery, 1))
        signal_log.wait_for("events-published", [1])
    assert signal_log.threads["events-published"] == {"eventcollector-flusher-signals"}


def test_outcomes_after_the_wait_are_signalled_by_the_flusher(
    broker: ManualBroker, delivery: Delivery, signal_log: SignalLog
) -> None:
    delivery.publish(collect(delivery, 1), 0.01)
    broker.settle()
    signal_log.wait_for("events-published", [1])
    assert signal_log.threads["events-published"] == {"eventcollector-flusher-test"}


def test_a_hand_over_does_not_wait(broker: ManualBroker, delivery: Delivery) -> None:
    delivery.hand_over(collect(delivery, 1))
    assert books(delivery) == {"in_flight": 1}


def test_what_is_due_is_sent_without_being_asked_for() -> None:
    signal_log = SignalLog()
    broker = MemoryBroker()
    FaultInjector.of(broker).fail_next(Outcome.NACKED, n=3)
    with delivering(broker, signal_log, delay=lambda failures: 0.01) as delivery:
        delivery.hand_over(collect(delivery, 1))
        signal_log.wait_for("events-published", [1])
        assert books(delivery) == {"confirmed": 1}


def test_what_waits_is_sent_when_the_broker_is_back(
    broker: ManualBroker, delivery: Delivery
) -> None:
    collect(delivery, 0)
    broker.becomes(BrokerState.DOWN)
    delivery.hand_over(collect(delivery, 1))
    assert broker.taken == []
    broker.becomes(BrokerState.READY)
    broker.wait_for(1)


# Called by the application


def test_a_flush_tries_what_was_refused_at_once() -> None:
    broker = MemoryBroker()
    FaultInjector.of(broker).fail_next(Outcome.NACKED)
    with delivering(broker) as delivery:
        delivery.publish(collect(delivery, 1))
        assert books(delivery) == {"retained": 1}
        assert delivery.flush(DEADLINE)
        assert books(delivery) == {"confirmed": 1}


def test_a_flush_ends_when_all_that_is_left_is_refused() -> None:
    broker = MemoryBroker()
    FaultInjector.of(broker).refuse("q")
    with delivering(broker) as delivery:
        delivery.publish(collect(delivery, 1))
        began = time.monotonic()
        assert not delivery.flush(DEADLINE)
        assert time.monotonic() - began < DEADLINE


def test_a_publish_has_the_broker_connect_soon_unless_it_is_empty(
    broker: ManualBroker, delivery: Delivery
) -> None:
    entries = collect(delivery, 1)
    broker.becomes(BrokerState.DOWN)
    delivery.publish([])
    assert "reconnect_soon" not in broker.calls
    delivery.publish(entries)
    assert "reconnect_soon" in broker.calls


def test_use_has_the_broker_connect_soon_while_something_waits(
    broker: ManualBroker, delivery: Delivery
) -> None:
    collect(delivery, 0)
    broker.becomes(BrokerState.DOWN)
    delivery.note_use()
    assert "reconnect_soon" not in broker.calls
    delivery.hand_over(collect(delivery, 1))
    broker.calls.clear()
    delivery.note_use()
    assert "reconnect_soon" in broker.calls


def test_a_retry_has_the_broker_connect_soon(
    broker: ManualBroker, delivery: Delivery
) -> None:
    delivery.hand_over(collect(delivery, 1))
    broker.becomes(BrokerState.DOWN)
    broker.calls.clear()
    delivery.retry(None)
    assert "reconnect_soon" in broker.calls


def test_a_flush_and_a_patient_publish_keep_it_trying_as_long_as_they_wait(
    broker: ManualBroker, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(
        broker, "reconnect_soon", lambda seconds=0.0: asked.append(seconds)
    )
    entries = collect(delivery, 2)
    broker.becomes(BrokerState.DOWN)
    delivery.publish(entries[:1], 0.01)
    delivery.hand_over(entries[1:])
    delivery.flush(0.02)
    assert {0.01, 0.02} <= set(asked)


def test_a_flush_has_the_broker_connect_now(
    broker: ManualBroker, delivery: Delivery
) -> None:
    collect(delivery, 0)
    broker.becomes(BrokerState.DOWN)
    delivery.hand_over(collect(delivery, 1))
    assert not delivery.flush(0.01)
    assert "reconnect_now" in broker.calls


def test_a_flush_waits_for_what_is_on_its_way(
    broker: ManualBroker, delivery: Delivery
) -> None:
    delivery.hand_over(collect(delivery, 1))
    with thread(lambda: broker.settle()):
        assert delivery.flush(DEADLINE)


def test_a_flush_of_collected_events_has_nothing_to_do(delivery: Delivery) -> None:
    collect(delivery, 1)
    assert delivery.flush(0)


def test_dead_events_are_listed_retried_and_purged(
    broker: ManualBroker, delivery: Delivery, signal_log: SignalLog
) -> None:
    delivery.hand_over(collect(delivery, 1, 2))
    broker.settle(Outcome.NACKED, reason="too large", final=True)
    assert [dead.reason for dead in delivery.dead()] == ["too large"] * 2
    first, second = (dead.event.id for dead in delivery.dead())
    assert delivery.retry([first]) == 1
    broker.wait_for(1)
    assert delivery.purge([second]) == 1
    assert signal_log.payloads("events-dropped") == [2]
    assert books(delivery) == {"in_flight": 1, "dropped": 1}


def test_stats_show_the_broker_and_the_books(
    broker: ManualBroker, delivery: Delivery
) -> None:
    assert delivery.stats().broker is BrokerState.IDLE
    delivery.hand_over(collect(delivery, 1))
    broker.becomes(BrokerState.DOWN, "it was lost")
    stats = delivery.stats()
    assert (stats.broker, stats.broker_error) == (BrokerState.DOWN, "it was lost")
    assert (stats.enqueued, stats.retained) == (1, 1)


# Closing


def test_closing_delivers_what_it_can(signal_log: SignalLog) -> None:
    broker = MemoryBroker()
    FaultInjector.of(broker).fail_next(Outcome.NACKED)
    with delivering(broker, signal_log) as delivery:
        delivery.publish(collect(delivery, 1))
        assert delivery.close(DEADLINE)
        assert books(delivery) == {"confirmed": 1}
        assert signal_log.payloads("events-published") == [1]


def test_a_close_that_a_signal_handler_interrupts_is_done_by_the_next_one(
    broker: ManualBroker, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = collect(delivery, 1)
    delivery.hand_over(entries)
    broker.wait_for(1)

    def interrupted(timeout: float) -> bool:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(broker, "close", interrupted)
        with pytest.raises(SystemExit):
            delivery.close(0)
    assert books(delivery) == {"in_flight": 1}
    broker.settle()
    assert delivery.close(DEADLINE)
    assert broker.state is BrokerState.CLOSED


class Interrupted(SignalLog):
    """Raises at the first signal about a discard, as a signal handler may."""

    has_raised = False

    def __call__(self, signal: NamedSignal, about: dict[str, Any]) -> None:
        if signal.name == "events-discarded" and not self.has_raised:
            self.has_raised = True
            raise SystemExit
        super().__call__(signal, about)


def test_what_an_interrupted_caller_has_not_reported_the_flusher_reports() -> None:
    signal_log = Interrupted()
    with delivering(MemoryBroker(), signal_log) as delivery:
        entries = collect(delivery, 1, 2)
        with pytest.raises(SystemExit):
            delivery.discard(entries, "cleared")
        signal_log.wait_for("events-discarded", [1, 2])


def test_closing_waits_for_what_is_on_its_way(
    broker: ManualBroker, delivery: Delivery
) -> None:
    delivery.hand_over(collect(delivery, 1))
    with thread(lambda: broker.settle()):
        assert delivery.close(DEADLINE)


def test_closing_drops_and_signals_what_is_left(
    delivery: Delivery, signal_log: SignalLog
) -> None:
    delivery.hand_over(collect(delivery, 1))
    assert not delivery.close(0.01)
    assert signal_log.payloads("events-dropped") == [1]
    assert books(delivery) == {"dropped": 1}


def test_closing_discards_what_was_never_published(
    delivery: Delivery, signal_log: SignalLog
) -> None:
    collect(delivery, 1)
    assert delivery.close(DEADLINE)
    assert signal_log.payloads("events-discarded") == [1]
    assert signal_log.reasons("events-discarded") == ["never published"]


def test_closing_twice_is_closing_once(
    broker: ManualBroker, delivery: Delivery
) -> None:
    collect(delivery, 1)
    assert delivery.close(DEADLINE)
    assert delivery.close(DEADLINE)
    assert broker.calls.count("close") == 1


def test_closing_before_the_first_event_starts_nothing(broker: ManualBroker) -> None:
    delivery = make_delivery(broker, name="unused")
    assert delivery.close(DEADLINE)
    collect(delivery, 1)
    assert flusher("unused") == []
    assert "start" not in broker.calls


def test_closing_shows(broker: ManualBroker, delivery: Delivery) -> None:
    collect(delivery, 1)
    delivery.close(DEADLINE)
    broker.becomes(BrokerState.DOWN)
    assert delivery.stats().broker is BrokerState.CLOSED


@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_a_publish_after_closing_never_waits_and_is_counted(
    delivery: Delivery, timeout: float | None
) -> None:
    collect(delivery, 0)
    delivery.close(DEADLINE)
    began = time.monotonic()
    result = delivery.publish(collect(delivery, 1), timeout)
    assert time.monotonic() - began < DEADLINE
    assert result == PublishResult(dropped=1)
    assert books(delivery) == {"discarded": 1, "dropped": 1}


def test_what_was_published_after_closing_is_dropped_at_once(
    delivery: Delivery, signal_log: SignalLog
) -> None:
    delivery.close(DEADLINE)
    delivery.publish(collect(delivery, 1))
    delivery.hand_over(collect(delivery, 2))
    assert signal_log.payloads("events-dropped") == [1, 2]


def test_what_was_collected_after_closing_is_discarded_by_the_next_close(
    delivery: Delivery, signal_log: SignalLog
) -> None:
    delivery.close(DEADLINE)
    collect(delivery, 1)
    delivery.close(DEADLINE)
    assert signal_log.payloads("events-discarded") == [1]


def test_a_caller_that_waits_is_let_go_by_closing(
    broker: ManualBroker, delivery: Delivery
) -> None:
    results: list[PublishResult] = []
    entries = collect(delivery, 1)
    with thread(lambda: results.append(delivery.publish(entries, DEADLINE))):
        broker.wait_for(1)
        delivery.close(0.01)
    assert results[0].confirmed == 0


@pytest.mark.parametrize("reconnect", [True, False])
def test_closing_takes_no_longer_than_its_timeout(
    broker: ManualBroker, delivery: Delivery, reconnect: bool
) -> None:
    delivery.hand_over(collect(delivery, 1))
    began = time.monotonic()
    assert not delivery.close(0.05, reconnect=reconnect)
    assert time.monotonic() - began < DEADLINE


def test_without_reconnecting_closing_does_not_wait_for_an_unreachable_broker(
    broker: ManualBroker, delivery: Delivery
) -> None:
    collect(delivery, 0)
    broker.becomes(BrokerState.DOWN)
    delivery.hand_over(collect(delivery, 1))
    began = time.monotonic()
    assert not delivery.close(DEADLINE, reconnect=False)
    assert time.monotonic() - began < DEADLINE
    assert "reconnect_now" not in broker.calls


@pytest.mark.parametrize(
    "state", [BrokerState.READY, BrokerState.CONNECTING, BrokerState.BLOCKED]
)
def test_without_reconnecting_what_is_under_way_may_finish(
    broker: ManualBroker, delivery: Delivery, state: BrokerState
) -> None:
    delivery.hand_over(collect(delivery, 1))
    broker.becomes(state)
    with thread(lambda: broker.settle()):
        assert delivery.close(DEADLINE, reconnect=False)
    assert "reconnect_now" not in broker.calls


@pytest.mark.parametrize(
    "state", [BrokerState.READY, BrokerState.CONNECTING, BrokerState.BLOCKED]
)
def test_what_is_under_way_gets_all_the_time_that_there_is(
    broker: ManualBroker, delivery: Delivery, state: BrokerState
) -> None:
    delivery.hand_over(collect(delivery, 1))
    broker.becomes(state)
    began = time.monotonic()
    assert not delivery.close(0.05, reconnect=False)
    assert time.monotonic() - began >= 0.05


def test_with_reconnecting_closing_waits_for_the_broker_to_come_back(
    broker: ManualBroker, delivery: Delivery
) -> None:
    collect(delivery, 0)
    broker.becomes(BrokerState.DOWN)
    delivery.hand_over(collect(delivery, 1))

    def come_back() -> None:
        broker.wait_for_call("reconnect_now")
        broker.becomes(BrokerState.READY)
        broker.wait_for(1)
        broker.settle()

    with thread(come_back):
        assert delivery.close(DEADLINE)
