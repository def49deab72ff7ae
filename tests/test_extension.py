"""The extension: apps, helpful errors, limits, and managing events."""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import flask
import pytest

from flask_eventcollector import (
    BacklogFull,
    BrokerState,
    ConfigurationError,
    EncodingError,
    EventCollector,
    Outcome,
    PublishResult,
    Stats,
    hooks,
)
from flask_eventcollector.delivery.delivery import Delivery
from tests.helpers import DEADLINE, Recorder, Shop, books, in_thread, open_shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


@pytest.fixture
def events() -> EventCollector:
    """An extension without an app."""
    return EventCollector()


def add_view(shop: Shop) -> None:
    @shop.get("/")
    def view() -> str:
        shop.enqueue(shop.name)
        return "ok"


def sent(shop: Shop) -> list[Any]:
    """The payloads confirmed by the broker of one of several apps."""
    with shop.app_context():
        return shop.sent()


# Several apps.


def test_the_class_takes_an_app_too() -> None:
    app = flask.Flask(__name__)
    app.testing = True

    events = EventCollector(app)

    assert events.enqueue_event("a", "q").payload == "a"


def test_two_apps_of_one_extension_keep_their_events_apart(
    events: EventCollector,
) -> None:
    one, two = Shop(events, "one"), Shop(events, "two")
    add_view(one)
    add_view(two)

    one.test_client().get("/")
    two.test_client().get("/")
    two.test_client().get("/")

    assert sent(one) == ["one"]
    assert sent(two) == ["two", "two"]


def test_two_extensions_keep_their_events_apart() -> None:
    one, two = Shop(name="one"), Shop(name="two")

    with one.app_context(), two.app_context():
        two.enqueue("two")
        two.events.publish()
        with one.app_context():
            one.enqueue("one")
            one.events.publish()

    assert (one.sent(), two.sent()) == (["one"], ["two"])


def test_each_app_has_settings_of_its_own(events: EventCollector) -> None:
    patient, eager = Shop(events, "one"), Shop(events, "two", AUTOFLUSH=True)

    for shop in (patient, eager):
        with shop.app_context():
            shop.enqueue("a")

    assert (sent(patient), sent(eager)) == ([], ["a"])


def test_the_current_app_is_the_one_that_is_meant(events: EventCollector) -> None:
    one, two = Shop(events, "one"), Shop(events, "two")

    with one.app_context():
        one.enqueue("outer")
        with two.app_context():
            two.enqueue("inner")
            assert len(events.events_to_publish) == 1
        assert events.publish().confirmed == 1

    assert (sent(one), sent(two)) == (["outer"], [])


def test_a_request_to_another_app_within_a_request_publishes_on_its_own(
    events: EventCollector,
) -> None:
    outer, inner = Shop(events, "outer"), Shop(events, "inner")
    add_view(inner)

    @outer.get("/")
    def view() -> tuple[str, int]:
        outer.enqueue("outer")
        inner.test_client().get("/")
        return "no", 500

    outer.test_client().get("/")

    assert (sent(outer), sent(inner)) == ([], ["inner"])
    assert books(events) == {"confirmed": 1, "discarded": 1}


def test_another_apps_context_within_a_request_is_no_part_of_the_request(
    events: EventCollector,
) -> None:
    one, two = Shop(events, "one"), Shop(events, "two")

    @one.get("/")
    def view() -> str:
        one.enqueue("before")
        with two.app_context():
            two.enqueue("other")
        one.enqueue("after")
        return "ok"

    one.test_client().get("/")

    assert (sent(one), sent(two)) == (["before", "after"], [])
    with two.app_context():
        assert events.clear_events_to_publish() == 1


def test_blocks_of_two_apps_do_not_mix(events: EventCollector) -> None:
    one, two = Shop(events, "one"), Shop(events, "two")

    with one.app_context(), events.auto_publish():
        one.enqueue("one")
        with two.app_context(), events.auto_publish():
            two.enqueue("two")
            with one.app_context():
                one.enqueue("one again")
        assert (sent(one), sent(two)) == ([], ["two"])

    assert sent(one) == ["one", "one again"]


def test_a_factory_may_make_many_apps(events: EventCollector) -> None:
    apps = [Shop(events, f"app{number}") for number in range(3)]

    for app in apps:
        with app.test_request_context():
            app.enqueue(app.name)

    assert [sent(app) for app in apps] == [["app0"], ["app1"], ["app2"]]
    assert events.stats().confirmed == 3


def test_settings_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, events: EventCollector
) -> None:
    monkeypatch.setenv("FLASK_EVENTCOLLECTOR_BROKER_URL", "memory://")
    monkeypatch.setenv("FLASK_EVENTCOLLECTOR_MAX_EVENTS", "1")
    monkeypatch.setenv("FLASK_EVENTCOLLECTOR_OVERFLOW", "reject")
    app = flask.Flask(__name__)
    app.config.from_prefixed_env()

    events.init_app(app)

    events.enqueue_event("a", "q")
    with pytest.raises(BacklogFull):
        events.enqueue_event("b", "q")


def test_outside_of_app_contexts_flush_close_and_stats_serve_all_apps(
    events: EventCollector,
) -> None:
    shops = [Shop(events, "one"), Shop(events, "two")]
    for shop in shops:
        with shop.app_context():
            shop.faults.go_down()
            shop.enqueue("a")
            events.publish()

    assert books(events) == {"retained": 2}
    assert not events.flush(0)
    for shop in shops:
        with shop.app_context():
            assert books(events) == {"retained": 1}
            shop.faults.come_up()
    assert events.flush(DEADLINE)
    assert books(events) == {"confirmed": 2}
    assert events.close(DEADLINE)
    assert events.stats().broker is BrokerState.CLOSED


@pytest.mark.parametrize("away", [0, 1])
def test_flush_and_close_fail_if_they_fail_for_one_app(
    events: EventCollector, away: int
) -> None:
    shops = [Shop(events, "one"), Shop(events, "two")]
    for number, shop in enumerate(shops):
        with shop.app_context():
            shop.enqueue("a")
            if number == away:
                shop.faults.go_down()
            events.publish()

    assert not events.flush(0)
    assert not events.close(0)


def test_inside_an_app_context_flush_close_and_stats_serve_that_app(
    events: EventCollector,
) -> None:
    one, two = Shop(events, "one"), Shop(events, "two")
    for shop in (one, two):
        with shop.app_context():
            shop.enqueue("a")
            events.publish()

    with one.app_context():
        assert events.close(DEADLINE)
        assert events.stats().broker is BrokerState.CLOSED
        assert events.stats().confirmed == 1
    with two.app_context():
        assert events.stats().broker is BrokerState.READY


def test_one_extension_can_serve_an_app_in_many_threads(shop: Shop) -> None:
    start = threading.Barrier(4)

    def work() -> None:
        start.wait(DEADLINE)
        for number in range(50):
            shop.enqueue(number)
            shop.events.publish()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)

    assert shop.books() == {"confirmed": 200}


# Used wrongly.


def test_init_app_twice_names_the_cure(shop: Shop) -> None:
    with pytest.raises(RuntimeError, match=r"call init_app\(\) once for each app"):
        shop.events.init_app(shop)


def test_a_second_extension_on_one_app_is_refused(shop: Shop) -> None:
    with pytest.raises(RuntimeError, match="'shop' already has an EventCollector"):
        EventCollector(shop)


def test_without_an_app_the_error_names_the_cure(events: EventCollector) -> None:
    with pytest.raises(RuntimeError, match=r"no app: call events.init_app\(app\)"):
        events.enqueue_event("a", "q")


USES: dict[str, Callable[[EventCollector], object]] = {
    "publish": lambda events: events.publish(),
    "clear": lambda events: events.clear_events_to_publish(),
    "events_to_publish": lambda events: events.events_to_publish,
    "thread_singleton_instance": lambda events: events.thread_singleton_instance(),
    "auto_publish": lambda events: events.auto_publish().__enter__(),
    "flush": lambda events: events.flush(0),
    "close": lambda events: events.close(0),
    "stats": lambda events: events.stats(),
    "dead": lambda events: events.dead(),
    "retry": lambda events: events.retry(),
    "purge": lambda events: events.purge([]),
    "broker": lambda events: events.broker,
}


@pytest.mark.parametrize("name", USES)
def test_without_an_app_nothing_works(events: EventCollector, name: str) -> None:
    with pytest.raises(RuntimeError, match="no app"):
        USES[name](events)


def test_if_nothing_refers_to_the_app_any_more_the_error_names_the_cure() -> None:
    events = EventCollector(flask.Flask("forgotten"))
    gc.collect()

    with pytest.raises(RuntimeError, match="was garbage-collected: keep a reference"):
        events.enqueue_event("a", "q")


def test_with_several_apps_outside_a_context_the_error_names_the_cure(
    events: EventCollector,
) -> None:
    apps = [Shop(events, "one"), Shop(events, "two")]

    with pytest.raises(RuntimeError, match=r"serves 2 apps.*'with app.app_context\(\)"):
        events.enqueue_event("a", "q")

    assert len(apps) == 2


def test_in_the_context_of_a_foreign_app_the_error_names_the_cure(
    shop: Shop,
) -> None:
    foreign = flask.Flask("foreign")

    with (
        foreign.app_context(),
        pytest.raises(RuntimeError, match=r"'foreign' is not registered.*init_app"),
    ):
        shop.events.enqueue_event("a", "q")


def test_in_the_context_of_another_extensions_app_the_error_names_the_cure(
    events: EventCollector, shop: Shop
) -> None:
    with shop.app_context(), pytest.raises(RuntimeError, match="not registered with"):
        events.enqueue_event("a", "q")


def test_a_wrong_setting_is_refused_by_init_app(events: EventCollector) -> None:
    app = flask.Flask(__name__)
    app.config["EVENTCOLLECTOR_OVERFLOW"] = "explode"

    with pytest.raises(ConfigurationError, match="EVENTCOLLECTOR_OVERFLOW"):
        events.init_app(app)

    app.config["EVENTCOLLECTOR_OVERFLOW"] = "reject"
    events.init_app(app)


# No broker was configured.


def unconfigured() -> Shop:
    shop = Shop()
    shop.testing = False
    return shop


def add_idle_view(shop: Shop) -> None:
    @shop.get("/idle")
    def idle() -> str:
        return "nothing is enqueued"


def test_without_a_broker_the_first_event_names_both_choices() -> None:
    with pytest.raises(ConfigurationError, match=r"amqp://.*memory://"):
        unconfigured().enqueue("a")


def test_without_a_broker_the_first_request_of_each_process_logs_the_cure(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = unconfigured()
    add_idle_view(shop)

    with shop.test_client() as client:
        for process in ((1, 1), (1, 1), (2, 1)):
            monkeypatch.setattr(hooks, "current_process", lambda p=process: p)
            assert client.get("/idle").status_code == 200

    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert caplog.text.count("EVENTCOLLECTOR_BROKER_URL is not set: use amqp") == 2


@pytest.mark.parametrize("server", ["gunicorn", "uwsgi"])
def test_a_server_s_worker_without_a_broker_logs_the_cure_when_it_loads_the_app(
    server: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server == "gunicorn":
        monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/23.0.0")
    else:
        monkeypatch.setitem(sys.modules, "uwsgi", ModuleType("uwsgi"))

    app = flask.Flask("shop")
    EventCollector(app)

    assert caplog.text.count("EVENTCOLLECTOR_BROKER_URL is not set: use amqp") == 1
    assert app.test_client().get("/idle").status_code == 404
    assert caplog.text.count("EVENTCOLLECTOR_BROKER_URL is not set: use amqp") == 1


@pytest.mark.parametrize("mode", ["testing", "debug"])
def test_what_a_factory_sets_late_counts_at_the_first_request(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = unconfigured()
    add_idle_view(shop)
    setattr(shop, mode, True)

    with shop.test_client() as client:
        client.get("/idle")

    assert caplog.records == []


def test_a_request_that_enqueues_nothing_has_the_broker_connect_soon(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_idle_view(shop)
    shop.faults.go_down()
    shop.enqueue("a")
    shop.events.publish()
    asked: list[str] = []
    monkeypatch.setattr(
        shop.broker, "reconnect_soon", lambda *seconds: asked.append("soon")
    )

    with shop.test_client() as client:
        client.get("/idle")

    assert asked == ["soon"]


def test_without_a_broker_the_error_comes_each_time() -> None:
    shop = unconfigured()

    for _ in range(2):
        with pytest.raises(ConfigurationError):
            shop.enqueue("a")


def test_without_a_broker_a_request_that_enqueues_nothing_is_not_disturbed() -> None:
    shop = unconfigured()
    shop.add_url_rule("/", "view", lambda: "ok")

    assert shop.test_client().get("/").text == "ok"

    assert shop.events.stats() == Stats()


def test_without_a_broker_the_view_that_enqueues_sees_the_error() -> None:
    shop = unconfigured()
    add_view(shop)
    seen: list[Exception] = []

    @shop.errorhandler(ConfigurationError)
    def handle(error: ConfigurationError) -> tuple[str, int]:
        seen.append(error)
        return "no", 500

    assert shop.test_client().get("/").status_code == 500

    assert len(seen) == 1


def test_testing_may_be_set_after_the_factory_has_run(events: EventCollector) -> None:
    app = flask.Flask(__name__)
    app.config["EVENTCOLLECTOR_BROKER_URL"] = "amqp://broker.invalid/"
    events.init_app(app)
    app.config["TESTING"] = True

    events.enqueue_event("a", "q")

    assert events.publish() == PublishResult(confirmed=1)


def test_while_debugging_the_embedded_broker_is_used(events: EventCollector) -> None:
    app = flask.Flask(__name__)
    app.debug = True
    events.init_app(app)

    events.enqueue_event("a", "q")

    assert events.publish() == PublishResult(confirmed=1)


# uWSGI, whose older versions run no threads by default.


def test_uwsgi_without_threads_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(has_threads=0))

    with pytest.raises(ConfigurationError, match="--enable-threads"):
        Shop()


def test_uwsgi_with_threads_is_accepted_whichever_option_enabled_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(has_threads=1, opt={}))

    shop = Shop()
    shop.enqueue("a")

    assert shop.events.publish().complete


# Arguments that enqueue_event rejects.


def test_a_payload_that_json_cannot_hold_leaves_the_collector_as_it_was(
    shop: Shop,
) -> None:
    shop.enqueue("a")

    with pytest.raises(EncodingError):
        shop.enqueue({"set": {1}})

    assert shop.books() == {"collected": 1}


@pytest.mark.parametrize("queue", ["", "x" * 256])
def test_an_impossible_queue_name_leaves_the_collector_as_it_was(
    shop: Shop, queue: str
) -> None:
    with pytest.raises(ValueError, match="queue"):
        shop.enqueue("a", queue=queue)

    assert shop.books() == {}


def test_later_changes_to_a_payload_change_nothing(shop: Shop) -> None:
    payload = {"state": "new"}
    shop.enqueue(payload)
    payload["state"] = "old"

    shop.events.publish()

    assert shop.sent() == [{"state": "new"}]


def test_an_event_goes_to_the_configured_exchange_or_its_own() -> None:
    with open_shop(EXCHANGE="shop") as shop:
        assert shop.events.enqueue_event(1, "q").exchange == "shop"
        assert shop.events.enqueue_event(1, "q", exchange="other").exchange == "other"
        assert shop.events.enqueue_event(1, "q", exchange="").exchange == ""


def test_headers_travel_with_the_event(shop: Shop) -> None:
    event = shop.events.enqueue_event("a", "q", headers={"tenant": 7})
    shop.events.publish()

    got = shop.broker.get("q", DEADLINE)

    assert got is not None
    assert (got.id, dict(got.headers)) == (event.id, {"tenant": 7})


# Limits.


def test_at_the_limit_the_newest_event_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_shop(MAX_EVENTS=2) as shop:
        shop.faults.go_down()
        with Recorder(shop) as recorder:
            shop.enqueue("a", "b", "c")
            shop.events.publish()

        assert shop.books() == {"retained": 2, "dropped": 1}
        dropped = recorder.one("events_dropped")
        assert (dropped.payloads, dropped.about["reason"]) == (["c"], "overflow")
        assert "Dropped 1 event for q: overflow" in caplog.text
        shop.faults.come_up()
        assert shop.sent() == ["a", "b"]
        assert shop.books() == {"confirmed": 2, "dropped": 1}


def test_at_the_limit_the_oldest_event_is_dropped_if_so_configured() -> None:
    with open_shop(MAX_EVENTS=2, OVERFLOW="drop-oldest") as shop:
        shop.faults.go_down()
        with Recorder(shop) as recorder:
            for payload in "abcd":
                shop.enqueue(payload)
                shop.events.publish()

        assert [heard.payloads for heard in recorder.heard("events_dropped")] == [
            ["a"],
            ["b"],
        ]
        assert shop.books() == {"retained": 2, "dropped": 2}
        shop.faults.come_up()
        assert shop.sent() == ["c", "d"]
        assert shop.books() == {"confirmed": 2, "dropped": 2}


def test_the_oldest_event_of_all_targets_is_dropped() -> None:
    with open_shop(MAX_EVENTS=3, OVERFLOW="drop-oldest") as shop:
        shop.faults.go_down()
        for number in range(5):
            shop.enqueue(number, queue=f"q{number % 2}")
            shop.events.publish()
        shop.faults.come_up()

        assert (shop.sent("q0"), shop.sent("q1")) == ([2, 4], [3])
        assert shop.books() == {"confirmed": 3, "dropped": 2}


def test_what_is_in_a_collector_is_never_dropped_for_newer_events() -> None:
    with open_shop(MAX_EVENTS=2, OVERFLOW="drop-oldest") as shop:
        shop.enqueue("a", "b", "c")

        shop.events.publish()

        assert shop.sent() == ["a", "b"]
        assert shop.books() == {"confirmed": 2, "dropped": 1}


def test_at_the_limit_an_event_is_refused_if_so_configured() -> None:
    with open_shop(MAX_EVENTS=2, OVERFLOW="reject") as shop:
        shop.faults.go_down()
        shop.enqueue("a", "b")
        shop.events.publish()

        with (
            Recorder(shop) as recorder,
            pytest.raises(BacklogFull, match="EVENTCOLLECTOR_MAX_EVENTS"),
        ):
            shop.enqueue("c")

        assert recorder.names() == []
        assert shop.books() == {"retained": 2}
        shop.faults.come_up()
        shop.enqueue("c")
        assert shop.books() == {"confirmed": 2, "collected": 1}


def test_a_refused_event_fails_the_request_that_does_not_handle_it() -> None:
    with open_shop(MAX_EVENTS=1, OVERFLOW="reject") as shop:

        @shop.get("/")
        def view() -> str:
            shop.enqueue("a", "b")
            return "ok"

        assert shop.test_client().get("/").status_code == 500
        assert shop.books() == {"discarded": 1}


@pytest.mark.parametrize("limit", [{"MAX_EVENTS": 1}, {"MAX_BYTES": 3}])
def test_bytes_count_as_events_do(limit: dict[str, int]) -> None:
    with open_shop(MAX_EVENT_BYTES=3, **limit) as shop:
        shop.faults.go_down()
        shop.enqueue("a", "b")

        assert shop.books() == {"collected": 1, "dropped": 1}
        assert shop.events.stats().held_bytes == 3


def test_room_comes_back_with_each_event_that_ends() -> None:
    with open_shop(MAX_EVENTS=1) as shop:
        for payload in "abc":
            shop.enqueue(payload)
            shop.events.publish()
        shop.enqueue("d")
        shop.events.clear_events_to_publish()
        shop.enqueue("e")

        assert shop.events.publish() == PublishResult(confirmed=1)
        assert shop.sent() == ["a", "b", "c", "e"]


def test_dead_events_have_a_limit_of_their_own() -> None:
    with open_shop(MAX_EVENTS=2, MAX_DEAD_EVENTS=1, DEAD_AFTER=0) as shop:
        shop.faults.refuse("missing")
        for payload in ("first", "second"):
            shop.enqueue(payload, queue="missing")
            shop.events.publish()
        assert [dead.event.payload for dead in shop.events.dead()] == ["second"]

        shop.faults.go_down()
        shop.enqueue("a")
        shop.enqueue("b")
        shop.events.publish()

        assert shop.books() == {"dead": 1, "retained": 2, "dropped": 1}


# publish().


def test_publish_returns_the_state_of_its_events(shop: Shop) -> None:
    assert shop.events.publish() == PublishResult()
    shop.enqueue("a")
    assert shop.events.publish() == PublishResult(confirmed=1)

    shop.faults.go_down()
    shop.enqueue("b", "c")
    result = shop.events.publish()

    assert result == PublishResult(retained=2)
    assert not result.complete


def test_publish_with_a_timeout_waits_while_the_broker_is_unreachable(
    shop: Shop,
) -> None:
    shop.faults.go_down()
    shop.enqueue("a")

    with Recorder(shop) as recorder:

        def come_up_when_it_waits() -> None:
            recorder.one("event_enqueued")
            shop.faults.come_up()

        thread = threading.Thread(target=come_up_when_it_waits)
        thread.start()
        shop.enqueue("b")
        result = shop.events.publish(timeout=DEADLINE)
        thread.join(DEADLINE)

    assert result == PublishResult(confirmed=2)


def test_publish_with_a_timeout_ends_when_it_has_run_out(shop: Shop) -> None:
    shop.faults.go_down()
    shop.enqueue("a")

    assert shop.events.publish(timeout=0.01) == PublishResult(retained=1)


def test_publish_does_not_wait_for_the_broker_that_is_down() -> None:
    with open_shop(CONFIRM_TIMEOUT=2 * DEADLINE) as shop:
        shop.faults.go_down()
        shop.enqueue("a")
        began = time.monotonic()

        assert shop.events.publish() == PublishResult(retained=1)

        assert time.monotonic() - began < DEADLINE


def test_publish_waits_for_a_silent_broker_no_longer_than_it_may() -> None:
    with open_shop(CONFIRM_TIMEOUT=0.01) as shop:
        shop.silence()
        shop.enqueue("a")

        assert shop.events.publish() == PublishResult(in_flight=1)

        assert shop.events.stats().broker is BrokerState.STALLED


def test_publish_does_not_wait_for_the_broker_that_has_stalled() -> None:
    with open_shop(CONFIRM_TIMEOUT=2 * DEADLINE) as shop:
        shop.silence()
        shop.enqueue("a")
        shop.events.publish(timeout=0.01)
        began = time.monotonic()

        shop.enqueue("b")
        result = shop.events.publish()

        assert time.monotonic() - began < DEADLINE
        assert result == PublishResult(in_flight=1)


def test_flush_needs_no_timeout(shop: Shop) -> None:
    shop.faults.fail_next(Outcome.NACKED, hold=True)
    shop.enqueue("a")
    shop.events.publish()

    assert shop.events.flush()
    assert shop.books() == {"confirmed": 1}


def test_without_a_timeout_close_takes_no_longer_than_the_longest_shutdown(
    events: EventCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    shops = [Shop(events, "a", SHUTDOWN_TIMEOUT=3), Shop(events, "b")]
    for shop in shops:
        with shop.app_context():
            shop.enqueue("a")
            events.publish()
    given: list[float] = []

    def close(delivery: Delivery, timeout: float) -> bool:
        given.append(timeout)
        return True

    with monkeypatch.context() as patched:
        patched.setattr(Delivery, "close", close)
        events.close()

    assert given == pytest.approx([3, 3], abs=0.9)
    events.close(0)


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, math.inf, 1e30])
@pytest.mark.parametrize("name", ["publish", "flush", "close"])
def test_a_timeout_that_is_no_span_of_time_is_refused(
    shop: Shop, name: str, timeout: float
) -> None:
    shop.enqueue("a")

    with pytest.raises(ValueError, match="timeout must be a number of seconds >= 0"):
        getattr(shop.events, name)(timeout)

    assert shop.books() == {"collected": 1}


@pytest.mark.parametrize("timeout", ["1", True, [1]])
@pytest.mark.parametrize("name", ["publish", "flush", "close"])
def test_a_timeout_that_is_no_number_is_refused(
    shop: Shop, name: str, timeout: Any
) -> None:
    shop.enqueue("a")

    with pytest.raises(TypeError, match="timeout must be a number of seconds, not"):
        getattr(shop.events, name)(timeout)

    assert shop.books() == {"collected": 1}


# flush().


def test_flush_has_nothing_to_do_at_first(shop: Shop) -> None:
    assert shop.events.flush(0)
    shop.enqueue("a")
    assert shop.events.flush(0)
    assert shop.books() == {"collected": 1}


def test_flush_delivers_at_once_what_would_have_waited_for_its_next_try() -> None:
    with open_shop(RETRY_DELAY=3600, RETRY_MAX_DELAY=3600) as shop:
        shop.faults.fail_next(Outcome.NACKED)
        shop.enqueue("a")
        shop.events.publish()
        assert shop.books() == {"retained": 1}

        assert shop.events.flush(DEADLINE)

        assert shop.sent() == ["a"]
        assert shop.books() == {"confirmed": 1}


def test_flush_fails_when_its_time_has_run_out(shop: Shop) -> None:
    shop.faults.go_down()
    shop.enqueue("a")
    shop.events.publish()

    assert not shop.events.flush(0.01)

    assert shop.books() == {"retained": 1}


def test_flush_ends_early_when_the_broker_has_refused_what_is_left() -> None:
    with open_shop(RETRY_DELAY=3600, RETRY_MAX_DELAY=3600) as shop:
        shop.faults.refuse("missing")
        shop.enqueue("a", queue="missing")
        shop.events.publish()
        began = time.monotonic()

        assert not shop.events.flush(2 * DEADLINE)

        assert time.monotonic() - began < DEADLINE
        assert shop.books() == {"retained": 1}


# close().


def test_close_delivers_what_it_can_and_drops_the_rest_with_a_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_shop(RETRY_DELAY=3600, RETRY_MAX_DELAY=3600) as shop:
        shop.faults.refuse("missing")
        shop.faults.fail_next(Outcome.NACKED, queue="q")
        shop.enqueue("kept")
        shop.enqueue(1, 2, queue="missing")
        shop.events.publish()

        with Recorder(shop) as recorder:
            assert not shop.events.close(DEADLINE)

        assert shop.sent() == ["kept"]
        assert shop.books() == {"confirmed": 1, "dropped": 2}
        assert sum(len(h.events) for h in recorder.heard("events_dropped")) == 2
        assert "Dropped 2 events for missing" in caplog.text


def test_close_discards_what_was_never_published_with_a_count(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.enqueue("a", "b")
    in_thread(lambda: None)

    assert shop.events.close(DEADLINE)

    assert shop.books() == {"discarded": 2}
    assert "Discarded 2 events for q: never published" in caplog.text


def test_close_can_be_called_again(shop: Shop) -> None:
    shop.enqueue("a")
    shop.events.publish()

    assert shop.events.close(DEADLINE)
    assert shop.events.close(0)

    assert shop.books() == {"confirmed": 1}


def test_close_before_the_first_event_has_nothing_to_do(shop: Shop) -> None:
    assert shop.events.close(0)


def test_close_ends_the_threads(shop: Shop) -> None:
    shop.name = "a-shop-to-be-closed"
    shop.enqueue("a")
    assert [t for t in threading.enumerate() if shop.name in t.name]

    shop.events.close(DEADLINE)

    assert [t for t in threading.enumerate() if shop.name in t.name] == []


def test_close_with_a_broker_that_is_down_ends_in_time(shop: Shop) -> None:
    shop.faults.go_down()
    shop.enqueue("a")
    shop.events.publish()
    began = time.monotonic()

    assert not shop.events.close(0.05)

    assert time.monotonic() - began < DEADLINE
    assert shop.books() == {"dropped": 1}


def test_after_close_an_event_is_dropped_and_counted_at_once(shop: Shop) -> None:
    shop.enqueue("a")
    shop.events.close(0)

    shop.enqueue("b")
    began = time.monotonic()
    result = shop.events.publish(timeout=2 * DEADLINE)

    assert time.monotonic() - began < DEADLINE
    assert result == PublishResult(dropped=1)
    assert shop.books() == {"discarded": 1, "dropped": 1}


# dead(), retry() and purge().


def kill(shop: Shop, *payloads: Any) -> list[str]:
    """Enqueue events that the broker refuses at once; return their ids."""
    shop.faults.refuse("missing")
    ids = [shop.events.enqueue_event(p, "missing").id for p in payloads]
    shop.events.publish()
    return ids


@pytest.fixture
def strict_shop() -> Iterator[Shop]:
    """A shop that dead-letters an event at its first refusal."""
    with open_shop(DEAD_AFTER=0) as shop:
        yield shop


def test_what_is_refused_for_too_long_is_dead(strict_shop: Shop) -> None:
    ids = kill(strict_shop, "a", "b")

    dead = strict_shop.events.dead()

    assert [d.event.id for d in dead] == ids
    assert {(d.reason, d.attempts) for d in dead} == {("no queue 'missing'", 1)}
    assert strict_shop.books() == {"dead": 2}


def test_publish_returns_how_many_events_are_dead(strict_shop: Shop) -> None:
    strict_shop.faults.refuse("missing")
    strict_shop.enqueue("a", queue="missing")
    strict_shop.enqueue("b")

    assert strict_shop.events.publish() == PublishResult(confirmed=1, dead=1)


def test_the_dead_hold_up_no_neighbour(strict_shop: Shop) -> None:
    kill(strict_shop, "a")
    strict_shop.enqueue("b")

    assert strict_shop.events.publish().complete
    assert strict_shop.books() == {"dead": 1, "confirmed": 1}


def test_retry_sends_all_dead_events_again_in_order(strict_shop: Shop) -> None:
    kill(strict_shop, 1, 2, 3)
    strict_shop.faults.accept("missing")

    assert strict_shop.events.retry() == 3

    assert strict_shop.sent("missing") == [1, 2, 3]
    assert strict_shop.books() == {"confirmed": 3}


def test_retry_sends_the_chosen_ones_again(strict_shop: Shop) -> None:
    ids = kill(strict_shop, 1, 2, 3)
    strict_shop.faults.accept("missing")

    assert strict_shop.events.retry([ids[1], "unknown", ids[1]]) == 1

    assert strict_shop.sent("missing") == [2]
    assert strict_shop.books() == {"confirmed": 1, "dead": 2}


def test_retry_of_what_is_still_refused_is_dead_again(strict_shop: Shop) -> None:
    kill(strict_shop, "a")

    assert strict_shop.events.retry() == 1

    (dead,) = strict_shop.events.dead()
    assert dead.attempts == 2
    assert strict_shop.books() == {"dead": 1}


def test_retry_does_not_touch_what_is_retained(shop: Shop) -> None:
    shop.faults.go_down()
    event = shop.events.enqueue_event("a", "q")
    shop.events.publish()

    assert shop.events.retry([event.id]) == 0
    assert shop.events.retry() == 0


def test_purge_drops_dead_and_retained_events(strict_shop: Shop) -> None:
    ids = kill(strict_shop, "a", "b")
    strict_shop.faults.go_down()
    ids += [strict_shop.events.enqueue_event("c", "q").id]
    strict_shop.events.publish()

    with Recorder(strict_shop) as recorder:
        assert strict_shop.events.purge([*ids[1:], "unknown"]) == 2

    heard = recorder.heard("events_dropped")
    assert {h.about["reason"] for h in heard} == {"purged"}
    assert sorted(p for h in heard for p in h.payloads) == ["b", "c"]
    assert strict_shop.books() == {"dead": 1, "dropped": 2}
    strict_shop.faults.come_up()
    assert strict_shop.sent() == []


def test_purge_leaves_what_is_in_a_collector(shop: Shop) -> None:
    event = shop.events.enqueue_event("a", "q")

    assert shop.events.purge([event.id]) == 0

    assert shop.books() == {"collected": 1}


@pytest.mark.parametrize("name", ["retry", "purge"])
def test_one_id_instead_of_a_list_is_refused(shop: Shop, name: str) -> None:
    with pytest.raises(TypeError, match="ids must be a list of event ids"):
        getattr(shop.events, name)("abc")


# stats().


def test_stats_before_the_first_event_are_empty(shop: Shop) -> None:
    assert shop.events.stats() == Stats()
    assert shop.events.stats().balanced


def test_stats_have_the_age_of_the_oldest_undelivered_event(shop: Shop) -> None:
    shop.enqueue("a")
    assert shop.events.stats().oldest_age is None
    shop.faults.go_down()
    shop.events.publish()

    age = shop.events.stats().oldest_age

    assert age is not None
    assert 0 <= age < DEADLINE
    shop.faults.come_up()
    assert shop.events.stats().oldest_age is None


def test_stats_have_the_brokers_state_and_its_reason(shop: Shop) -> None:
    shop.enqueue("a")
    shop.faults.block()

    stats = shop.events.stats()

    assert (stats.broker, stats.broker_error) == (
        BrokerState.BLOCKED,
        "it was blocked",
    )
    assert stats.as_dict()["broker"] == "blocked"
