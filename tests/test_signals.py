"""Signals report the fate of events; receivers can't disturb the library."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import flask
import pytest

import flask_eventcollector as package
from flask_eventcollector import (
    Event,
    EventCollector,
    Outcome,
    PublishResult,
    event_enqueued,
    events_discarded,
    events_dropped,
    events_published,
    publish_failed,
)
from tests.helpers import (
    DEADLINE,
    SIGNALS,
    Recorder,
    Shop,
    in_thread,
    open_shop,
    payloads,
    wait_until,
)

FLUSHER = "eventcollector-flusher-shop"


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop(RETRY_DELAY=0.01, RETRY_MAX_DELAY=0.01) as shop:
        yield shop


@pytest.fixture
def heard(shop: Shop) -> Iterator[Recorder]:
    """The signals about the shop's events."""
    with Recorder(shop) as recorder:
        yield recorder


@pytest.fixture
def full_shop() -> Iterator[Shop]:
    """A shop that holds at most one event."""
    with open_shop(MAX_EVENTS=1) as shop:
        shop.faults.go_down()
        publish(shop, "fills it up")
        yield shop


def publish(shop: Shop, *what: Any, queue: str = "q") -> PublishResult:
    shop.enqueue(*what, queue=queue)
    return shop.events.publish()


def get(shop: Shop, path: str = "/") -> int:
    return shop.test_client().get(path).status_code


# The six signals and their arguments.


def test_event_enqueued_carries_the_event(shop: Shop, heard: Recorder) -> None:
    event = shop.events.enqueue_event("a", "q")

    said = heard.one("event_enqueued")

    assert said.sender is shop
    assert said.about == {"event": event}


def test_events_published_carries_the_events_the_attempt_and_the_time(
    shop: Shop, heard: Recorder
) -> None:
    first = shop.events.enqueue_event("a", "q")
    second = shop.events.enqueue_event("b", "other")

    shop.events.publish()

    said = heard.one("events_published")
    assert said.sender is shop
    assert said.about.keys() == {"events", "attempt", "elapsed"}
    assert said.about["events"] == (first, second)
    assert said.about["attempt"] == 1
    assert 0 <= said.about["elapsed"] < DEADLINE


def test_publish_failed_carries_the_outcome_and_the_brokers_reason(
    shop: Shop, heard: Recorder
) -> None:
    shop.faults.fail_next(Outcome.RETURNED)
    event = shop.events.enqueue_event("a", "q")

    shop.events.publish()

    said = heard.one("publish_failed")
    assert said.sender is shop
    assert said.about == {
        "events": (event,),
        "outcome": Outcome.RETURNED,
        "error": "no queue 'q'",
        "attempt": 1,
        "first": True,
    }


def test_publish_failed_is_also_sent_when_nothing_was_tried(
    shop: Shop, heard: Recorder
) -> None:
    shop.faults.go_down()
    event = shop.events.enqueue_event("a", "q")

    shop.events.publish()

    assert heard.one("publish_failed").about == {
        "events": (event,),
        "outcome": None,
        "error": "the broker is down: it was taken down",
        "attempt": 0,
        "first": True,
    }


def test_events_discarded_carries_the_reason(shop: Shop, heard: Recorder) -> None:
    first = shop.events.enqueue_event("a", "q")
    second = shop.events.enqueue_event("b", "other")

    shop.events.clear_events_to_publish()

    said = heard.one("events_discarded")
    assert said.sender is shop
    assert said.about == {"events": (first, second), "reason": "cleared"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (("no", 404), "the response was 404"),
        (ValueError("no"), "ValueError was raised"),
    ],
    ids=["status", "exception"],
)
def test_events_discarded_carries_the_reason_of_the_failure(
    shop: Shop, heard: Recorder, answer: Any, reason: str
) -> None:
    @shop.get("/")
    def view() -> Any:
        shop.enqueue("a")
        if isinstance(answer, Exception):
            raise answer
        return answer

    get(shop)

    assert heard.one("events_discarded").about["reason"] == reason


def test_events_dropped_carries_the_reason() -> None:
    with open_shop(MAX_EVENTS=1) as shop, Recorder(shop) as heard:
        shop.enqueue("a")
        event = shop.events.enqueue_event("b", "q")

        said = heard.one("events_dropped")
        assert said.sender is shop
        assert said.about == {"events": (event,), "reason": "overflow"}


def test_events_dead_carries_the_reason() -> None:
    with open_shop(DEAD_AFTER=0) as shop, Recorder(shop) as heard:
        shop.faults.refuse("q")
        event = shop.events.enqueue_event("a", "q")
        shop.events.publish()

        said = heard.one("events_dead")
        assert said.sender is shop
        assert said.about == {"events": (event,), "reason": "no queue 'q'"}


def test_each_signal_carries_just_the_events_that_it_is_about(
    shop: Shop, heard: Recorder
) -> None:
    shop.faults.fail_next(Outcome.NACKED, queue="full")
    shop.enqueue("a")
    shop.enqueue("b", queue="full")
    shop.enqueue("c")

    shop.events.publish()

    assert heard.heard("events_published")[0].payloads == ["a", "c"]
    assert heard.one("publish_failed").payloads == ["b"]


def test_an_event_that_fails_at_first_has_one_final_signal(
    shop: Shop, heard: Recorder
) -> None:
    shop.faults.fail_next(Outcome.NACKED, n=2)

    publish(shop, "a")

    published = heard.one("events_published")
    assert [said.about["attempt"] for said in heard.heard("publish_failed")] == [1, 2]
    assert published.about["attempt"] == 3
    assert heard.names()[-1] == "events_published"
    assert shop.books() == {"confirmed": 1}


def test_a_slow_receiver_hears_of_the_first_attempt_before_the_last(
    shop: Shop,
) -> None:
    shop.faults.fail_next(Outcome.NACKED)
    told_early = threading.Event()

    def slow(app: flask.Flask, **extra: Any) -> None:
        wait_until(lambda: shop.events.stats().confirmed == 1, "it is retried")
        told_early.wait(0.2)
        assert not told_early.is_set()
        told.append("failed")

    def published(app: flask.Flask, **extra: Any) -> None:
        told_early.set()
        told.append("published")

    told: list[str] = []
    with publish_failed.connected_to(slow), events_published.connected_to(published):
        publish(shop, "a")
        wait_until(lambda: len(told) == 2, "both are told")

    assert told == ["failed", "published"]


def test_an_unknown_outcome_is_a_failure_of_its_own(
    shop: Shop, heard: Recorder
) -> None:
    shop.faults.fail_next(Outcome.UNKNOWN)

    publish(shop, "a")

    assert heard.heard("publish_failed")[0].about["outcome"] is Outcome.UNKNOWN
    heard.one("events_published")
    (event,) = shop.broker.events("q")
    assert event.headers["x-possible-duplicate"] is True


def test_a_receiver_hears_of_its_own_app_only() -> None:
    events = EventCollector()
    one, two = Shop(events, "one"), Shop(events, "two")

    with Recorder(one) as heard:
        for shop in (one, two):
            with shop.app_context():
                publish(shop, shop.name)

    assert [said.payloads for said in heard.heard("events_published")] == [["one"]]


def test_a_receiver_without_a_sender_hears_of_all_apps() -> None:
    senders: list[flask.Flask] = []
    events = EventCollector()
    shops = [Shop(events, "one"), Shop(events, "two")]

    def receive(sender: flask.Flask, **extra: Any) -> None:
        senders.append(sender)

    with events_published.connected_to(receive):
        for shop in shops:
            with shop.app_context():
                publish(shop, "a")

    assert senders == shops


def test_the_signals_have_a_namespace_of_their_own() -> None:
    import blinker

    assert all(getattr(package, name) is signal for name, signal in SIGNALS.items())
    assert blinker.signal("events-published") is not events_published


# The threads in which they are sent.


def test_what_a_caller_waits_for_is_signalled_in_its_thread(
    shop: Shop, heard: Recorder
) -> None:
    def call() -> None:
        threading.current_thread().name = "caller"
        publish(shop, "a")

    in_thread(call)

    assert heard.one("events_published").thread == "caller"


def test_a_requests_signals_come_in_its_thread_with_the_request_at_hand(
    shop: Shop,
) -> None:
    paths: list[str] = []

    @shop.get("/orders")
    def view() -> str:
        shop.enqueue("a")
        return "ok"

    def receive(sender: flask.Flask, **extra: Any) -> None:
        paths.append(flask.request.path)

    with events_published.connected_to(receive, shop):
        get(shop, "/orders")

    assert paths == ["/orders"]


def test_what_no_caller_waits_for_is_signalled_by_the_flusher(
    shop: Shop, heard: Recorder
) -> None:
    shop.faults.go_down()
    publish(shop, "a")

    shop.faults.come_up()

    assert heard.one("events_published").thread == FLUSHER


def test_the_app_context_is_pushed_for_receivers(shop: Shop, heard: Recorder) -> None:
    publish(shop, "signalled by the caller")
    shop.faults.go_down()
    publish(shop, "signalled by the flusher")
    shop.faults.come_up()

    heard.wait_for_count("events_published", 2)

    assert {said.current for said in heard.heard("events_published")} == {shop}
    assert not flask.has_app_context()


def test_another_apps_context_is_no_substitute(shop: Shop, heard: Recorder) -> None:
    with shop.app_context():
        own = shop.events.thread_singleton_instance()
    with flask.Flask("other").app_context():
        own.enqueue_event("a", "q")

        assert heard.one("event_enqueued").current is shop
        assert flask.current_app.name == "other"


def test_a_signal_in_the_context_of_another_app_ends_no_request(
    shop: Shop,
) -> None:
    seen: list[Event] = []

    def receive(sender: flask.Flask, event: Event, **extra: Any) -> None:
        seen.append(event)

    @shop.get("/")
    def view() -> str:
        shop.enqueue("before")
        own = shop.events.thread_singleton_instance()
        with flask.Flask("other").app_context():
            own.enqueue_event("thread", "q")
            own.publish()
        shop.enqueue("after")
        return "ok"

    with (
        event_enqueued.connected_to(receive, shop),
        events_published.connected_to(lambda sender, **extra: None, shop),
    ):
        assert get(shop) == 200

    assert len(seen) == 3
    assert shop.sent() == ["thread", "before", "after"]


# Receivers that misbehave.


@pytest.mark.parametrize("name", ["event_enqueued", "events_published"])
def test_a_receiver_that_raises_is_logged_and_the_others_still_run(
    shop: Shop, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    def broken(sender: flask.Flask, **extra: Any) -> None:
        raise RuntimeError("the receiver's bug")

    @shop.get("/")
    def view() -> str:
        shop.enqueue("secret payload")
        return "ok"

    signal = SIGNALS[name]
    with (
        signal.connected_to(broken, shop),
        Recorder(shop) as heard,
        signal.connected_to(lambda sender, **extra: broken(sender), shop),
    ):
        assert get(shop) == 200

    assert len(heard.heard(name)) == 1
    records = [r for r in caplog.records if "Signal receiver failed" in r.getMessage()]
    assert [record.levelno for record in records] == [logging.ERROR] * 2
    assert "the receiver's bug" in caplog.text
    assert "secret payload" not in caplog.text
    assert shop.books() == {"confirmed": 1}


def test_a_receiver_that_raises_in_the_flusher_does_not_end_it(
    shop: Shop, heard: Recorder
) -> None:
    def broken(sender: flask.Flask, **extra: Any) -> None:
        raise RuntimeError("the receiver's bug")

    with events_published.connected_to(broken, shop):
        for number in (1, 2):
            shop.faults.go_down()
            publish(shop, number)
            shop.faults.come_up()
            heard.wait_for_count("events_published", number)

    assert shop.books() == {"confirmed": 2}


def test_a_receiver_that_does_not_take_all_arguments_disturbs_no_request(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    @shop.get("/")
    def view() -> str:
        shop.enqueue("a")
        return "ok"

    receiver: Any = lambda sender: None  # noqa: E731
    with events_published.connected_to(receiver, shop):
        assert get(shop) == 200

    assert "Signal receiver failed: events-published" in caplog.text


def test_a_slow_receiver_in_the_flusher_slows_no_publish(
    shop: Shop, heard: Recorder
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(sender: flask.Flask, **extra: Any) -> None:
        if threading.current_thread().name == FLUSHER:
            entered.set()
            go_on.wait(DEADLINE)

    with events_published.connected_to(slow, shop):
        shop.faults.go_down()
        publish(shop, "a")
        shop.faults.come_up()
        assert entered.wait(DEADLINE)
        began = time.monotonic()

        assert publish(shop, "b") == PublishResult(confirmed=1)

        assert time.monotonic() - began < DEADLINE / 2
        assert shop.books() == {"confirmed": 2}
        go_on.set()


def test_an_async_receiver_is_awaited(shop: Shop) -> None:
    seen: list[Any] = []

    async def receive(sender: flask.Flask, events: tuple[Event, ...], **_: Any) -> None:
        await asyncio.sleep(0)
        seen.extend(payloads(events))

    with events_published.connected_to(receive, shop):
        publish(shop, "a")

    assert seen == ["a"]


def test_a_receiver_sets_context_variables_for_itself(shop: Shop) -> None:
    """A destructor that publishes must not set any where it has interrupted."""
    variable: ContextVar[list[Event]] = ContextVar("variable")

    def receive(sender: Shop, event: Event, **about: Any) -> None:
        variable.set([*variable.get(), event])
        assert len(variable.get()) == 1

    variable.set([])
    with event_enqueued.connected_to(receive, sender=shop):
        shop.enqueue("a", "b")
    assert variable.get() == []


def test_a_bound_method_may_receive(shop: Shop) -> None:
    class Listener:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def receive(self, sender: flask.Flask, **about: Any) -> None:
            self.seen += payloads(about["events"])

    listener = Listener()
    events_published.connect(listener.receive, shop)

    publish(shop, "a")
    seen = listener.seen
    del listener
    gc.collect()
    publish(shop, "b")

    assert seen == ["a"]


# Receivers that enqueue.


def test_what_a_receiver_of_event_enqueued_enqueues_joins_the_unit_of_work(
    shop: Shop,
) -> None:
    def audit(sender: flask.Flask, event: Event, **extra: Any) -> None:
        if event.target_queue != "audit":
            shop.enqueue(f"audit of {event.payload}", queue="audit")

    def view(status: int) -> tuple[str, int]:
        shop.enqueue("a")
        assert len(shop.events.events_to_publish) == 2
        return "body", status

    shop.add_url_rule("/<int:status>", "view", view)

    with event_enqueued.connected_to(audit, shop):
        get(shop, "/200")
        get(shop, "/500")

    assert shop.sent("audit") == ["audit of a"]
    assert shop.books() == {"confirmed": 2, "discarded": 2}


def test_what_a_receiver_enqueues_is_handed_over_when_it_returns(shop: Shop) -> None:
    def tell(sender: flask.Flask, events: tuple[Event, ...], **extra: Any) -> None:
        for event in events:
            if event.target_queue == "q":
                shop.enqueue(f"{event.payload} was sent", queue="log")
                assert shop.sent("log") == []

    with events_published.connected_to(tell, shop):
        publish(shop, "a")

    assert shop.sent("log") == ["a was sent"]
    assert shop.books() == {"confirmed": 2}


def test_what_a_receiver_enqueues_in_the_flusher_is_handed_over(shop: Shop) -> None:
    def tell(sender: flask.Flask, events: tuple[Event, ...], **extra: Any) -> None:
        if events[0].target_queue == "q":
            shop.enqueue("it was sent", queue="log")

    with events_published.connected_to(tell, shop):
        shop.faults.go_down()
        publish(shop, "a")
        shop.faults.come_up()

        assert shop.broker.get("log", DEADLINE) is not None
        assert shop.books() == {"confirmed": 2}


def test_what_a_receiver_enqueues_does_not_join_the_request_that_failed(
    shop: Shop,
) -> None:
    def tell(sender: flask.Flask, **extra: Any) -> None:
        shop.enqueue("a request failed", queue="log")

    @shop.get("/")
    def view() -> tuple[str, int]:
        shop.enqueue("a")
        return "no", 500

    with events_discarded.connected_to(tell, shop):
        get(shop)

    assert shop.sent("log") == ["a request failed"]
    assert shop.books() == {"confirmed": 1, "discarded": 1}


def test_what_a_receiver_had_enqueued_before_it_raised_is_handed_over(
    shop: Shop,
) -> None:
    def tell(sender: flask.Flask, events: tuple[Event, ...], **extra: Any) -> None:
        if events[0].target_queue == "q":
            shop.enqueue("half", queue="log")
            raise RuntimeError("the receiver's bug")

    with events_published.connected_to(tell, shop):
        publish(shop, "a")

    assert shop.sent("log") == ["half"]
    assert shop.books() == {"confirmed": 2}


def test_a_receiver_may_publish(shop: Shop) -> None:
    results: list[PublishResult] = []

    def tell(sender: flask.Flask, events: tuple[Event, ...], **extra: Any) -> None:
        if events[0].target_queue == "q":
            shop.enqueue("b", queue="log")
            results.append(shop.events.publish())

    with events_published.connected_to(tell, shop):
        publish(shop, "a")

    assert results == [PublishResult(confirmed=1)]
    assert shop.books() == {"confirmed": 2}


def test_a_receiver_may_ask_for_the_books_and_the_dead() -> None:
    seen: list[Any] = []

    def ask(sender: Shop, **extra: Any) -> None:
        seen.append((sender.books(), len(sender.events.dead())))

    # The next retry is far in the future.
    with (
        open_shop(RETRY_DELAY=3600, RETRY_MAX_DELAY=3600) as shop,
        publish_failed.connected_to(ask, shop),
    ):
        shop.faults.fail_next(Outcome.NACKED)
        publish(shop, "a")

    assert seen == [({"retained": 1}, 0)]


def test_a_receiver_that_enqueues_whenever_events_are_dropped_ends(
    full_shop: Shop,
) -> None:
    calls: list[int] = []
    depth, deepest = [0], [0]

    def insist(sender: flask.Flask, events: tuple[Event, ...], **extra: Any) -> None:
        calls.append(len(events))
        depth[0] += 1
        deepest[0] = max(depth[0], deepest[0])
        if len(calls) < 3:
            full_shop.enqueue("one more")
        depth[0] -= 1

    with events_dropped.connected_to(insist, full_shop):
        full_shop.enqueue("too much")
        wait_until(lambda: len(calls) == 3, "the flusher signals the rest")

    assert deepest == [1]
    assert full_shop.books() == {"retained": 1, "dropped": 3}


def test_a_receiver_that_enqueues_whenever_publishing_fails_does_not_recurse(
    shop: Shop,
) -> None:
    depth, deepest = [0], [0]

    def insist(sender: flask.Flask, **extra: Any) -> None:
        depth[0] += 1
        deepest[0] = max(depth[0], deepest[0])
        shop.enqueue("a complaint", queue="problems")
        depth[0] -= 1

    shop.faults.go_down()
    with publish_failed.connected_to(insist, shop):
        publish(shop, "a")

    assert deepest == [1]
    assert shop.books() == {"retained": 2}


# Logging handlers are receivers too.


class Enqueueing(logging.Handler):
    """A handler that enqueues each log line as an event."""

    def __init__(self, shop: Shop) -> None:
        super().__init__()
        self.shop = shop
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.shop.enqueue(record.getMessage(), queue="log")


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("flask_eventcollector")
    before = list(logger.handlers)
    yield logger
    logger.handlers[:] = before


def test_a_logging_handler_may_enqueue_though_that_is_too_much(
    full_shop: Shop, log: logging.Logger
) -> None:
    handler = Enqueueing(full_shop)
    log.addHandler(handler)

    in_thread(lambda: full_shop.enqueue("too much"))

    assert handler.lines
    assert full_shop.books()["retained"] == 1


def test_a_logging_handler_may_enqueue_while_the_flusher_reports(
    shop: Shop, log: logging.Logger
) -> None:
    handler = Enqueueing(shop)
    log.addHandler(handler)
    shop.enqueue("a")

    shop.faults.go_down()

    wait_until(lambda: handler.lines, "the flusher reports that the broker is down")
    # It is handed over, and waits for the broker as any other event does.
    wait_until(lambda: shop.books()["retained"] == len(handler.lines), "handed over")
    in_thread(lambda: publish(shop, "b"))
    assert shop.events.stats().balanced


class Broken(logging.Handler):
    """A handler that raises."""

    def __init__(self) -> None:
        super().__init__()
        self.called = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.called.set()
        raise RuntimeError("the handler's bug")


def test_a_logging_handler_that_raises_fails_no_request(
    full_shop: Shop, log: logging.Logger
) -> None:
    @full_shop.get("/")
    def view() -> str:
        full_shop.enqueue("too much")
        return "ok"

    handler = Broken()
    log.addHandler(handler)

    assert get(full_shop) == 200

    assert handler.called.is_set()
    assert full_shop.books() == {"retained": 1, "dropped": 1}


def test_a_logging_handler_that_raises_does_not_end_the_flusher(
    shop: Shop, log: logging.Logger, heard: Recorder
) -> None:
    handler = Broken()
    log.addHandler(handler)
    shop.faults.go_down()
    publish(shop, "a")
    assert handler.called.wait(DEADLINE)

    shop.faults.come_up()

    assert heard.one("events_published").payloads == ["a"]
