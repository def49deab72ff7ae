"""The current collector: the innermost scope's, otherwise the thread's."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import flask
import flask.cli
import pytest

from flask_eventcollector import EventCollector
from flask_eventcollector.collecting import scopes
from tests.helpers import DEADLINE, Recorder, Shop, in_thread, open_shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


# The thread's own collector.


def test_outside_of_scopes_events_are_kept_until_they_are_published(
    shop: Shop,
) -> None:
    shop.enqueue("a", "b")

    before = shop.sent()
    result = shop.events.publish()

    assert before == []
    assert result.confirmed == 2
    assert shop.sent() == ["a", "b"]


def test_a_thread_has_one_collector(shop: Shop) -> None:
    first = shop.events.thread_singleton_instance()

    assert shop.events.thread_singleton_instance() is first


def test_each_thread_has_a_collector_of_its_own(shop: Shop) -> None:
    collectors: list[object] = [shop.events.thread_singleton_instance()]

    in_thread(lambda: collectors.append(shop.events.thread_singleton_instance()))

    assert collectors[0] is not collectors[1]


def test_a_threads_collector_is_made_on_its_first_use(shop: Shop) -> None:
    assert not shop.extensions["eventcollector"].delivery_if_used()

    shop.events.thread_singleton_instance()

    assert shop.extensions["eventcollector"].delivery_if_used()


def test_a_threads_collector_holds_what_the_thread_enqueues(shop: Shop) -> None:
    own = shop.events.thread_singleton_instance()

    shop.enqueue("a")
    own.enqueue_event("b", "q")

    assert [event.payload for event in own.events_to_publish] == ["a", "b"]


def test_one_thread_does_not_publish_for_another(shop: Shop) -> None:
    shop.enqueue("mine")

    def work() -> None:
        shop.enqueue("theirs")
        shop.events.publish()

    in_thread(work)

    assert shop.sent() == ["theirs"]
    assert shop.books() == {"confirmed": 1, "collected": 1}


def test_a_threads_collector_lives_on_between_requests(shop: Shop) -> None:
    shop.add_url_rule("/", "view", lambda: "ok")
    shop.enqueue("a")

    shop.test_client().get("/")
    with shop.app_context():
        shop.enqueue("b")

    assert shop.sent() == []
    assert shop.events.publish().confirmed == 2


def test_a_threads_collector_can_be_used_within_a_request(shop: Shop) -> None:
    with shop.test_request_context():
        shop.events.thread_singleton_instance().enqueue_event("thread", "q")
        shop.enqueue("request")

    assert shop.sent() == ["request"]
    assert shop.events.publish().confirmed == 1


def test_the_events_of_a_thread_that_has_ended_are_discarded_with_a_warning(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with Recorder(shop) as recorder:
        in_thread(lambda: shop.enqueue("a", "b"))
        gc.collect()

        assert shop.books() == {"discarded": 2}
        discarded = recorder.one("events_discarded")
    assert discarded.about["reason"] == "collector abandoned"
    assert discarded.payloads == ["a", "b"]
    assert "Discarded 2 events for q" in caplog.text


def test_the_flusher_discards_what_a_thread_has_abandoned_without_a_request(
    shop: Shop,
) -> None:
    with Recorder(shop) as recorder:
        in_thread(lambda: shop.enqueue("a"))
        gc.collect()

        assert recorder.one("events_discarded").thread.startswith("eventcollector")


def test_the_events_of_a_collector_that_outlives_its_thread_are_not_lost(
    shop: Shop,
) -> None:
    kept: list[Any] = []

    def work() -> None:
        shop.enqueue("a")
        kept.append(shop.events.thread_singleton_instance())

    in_thread(work)
    gc.collect()

    assert shop.books() == {"collected": 1}
    assert kept[0].publish().confirmed == 1


# Autoflush, and Flask's shell.


def test_a_block_ends_with_its_owner_even_if_its_exit_was_interrupted(
    shop: Shop,
) -> None:
    """A signal handler may raise at the first bytecode of an ``__exit__()``."""
    block = shop.events.auto_publish()
    block.__enter__()
    shop.enqueue("a")
    del block
    shop.enqueue("b")
    shop.events.publish()
    assert shop.books() == {"confirmed": 1, "discarded": 1}


def test_after_an_interrupted_exit_a_destructor_sets_no_context_variable(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPython < 3.12 crashes if one is set in the middle of another's set()."""
    block = shop.events.auto_publish()
    block.__enter__()
    shop.enqueue("a")
    del block
    ended = scopes._innermost.get()
    variable = Mock(spec=["get"], get=Mock(return_value=ended))
    monkeypatch.setattr(scopes, "_innermost", variable)
    shop.enqueue("b")
    shop.events.publish()
    assert shop.books() == {"confirmed": 1, "discarded": 1}


def test_with_autoflush_an_event_outside_of_scopes_is_published_at_once() -> None:
    with open_shop(AUTOFLUSH=True) as shop:
        shop.enqueue("a")

        assert shop.sent() == ["a"]


def test_with_autoflush_requests_and_blocks_still_publish_at_their_end() -> None:
    with open_shop(AUTOFLUSH=True) as shop:
        with shop.test_request_context():
            shop.enqueue("request")
            assert shop.sent() == []
        with shop.events.auto_publish():
            shop.enqueue("block")
            assert shop.sent() == ["request"]

        assert shop.sent() == ["request", "block"]
        assert shop.books() == {"confirmed": 2}


def test_with_autoflush_each_thread_publishes_at_once() -> None:
    with open_shop(AUTOFLUSH=True) as shop:
        in_thread(lambda: shop.enqueue("a"))

        assert shop.sent() == ["a"]


def test_without_autoflush_nothing_is_published_at_once(shop: Shop) -> None:
    shop.enqueue("a")

    assert shop.sent() == []


def test_from_the_shells_context_on_each_event_is_published_at_once(
    shop: Shop,
) -> None:
    shop.enqueue("before")
    shop.make_shell_context()

    shop.enqueue("after")

    assert shop.sent() == ["before", "after"]


def test_flasks_own_shell_command_publishes_each_event_at_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def interact(banner: str, local: dict[str, Any]) -> None:
        shop.enqueue("a")
        seen.extend(shop.sent())

    monkeypatch.setattr("code.interact", interact)

    result = shop.test_cli_runner().invoke(flask.cli.shell_command)

    assert result.exception is None
    assert seen == ["a"]


def test_in_the_shell_events_is_the_collector_of_the_shells_app(shop: Shop) -> None:
    with open_shop(name="warehouse") as other:
        assert shop.make_shell_context()["events"] is shop.events
        assert other.make_shell_context()["events"] is other.events


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_in_the_shell_the_apps_own_events_win(first: bool) -> None:
    app = flask.Flask("shop")
    app.testing = True
    if not first:
        EventCollector(app)

    @app.shell_context_processor
    def names() -> dict[str, Any]:
        return {"events": "the app's own"}

    if first:
        EventCollector(app)

    assert app.make_shell_context()["events"] == "the app's own"


def test_a_command_that_is_no_shell_publishes_nothing_by_itself(shop: Shop) -> None:
    @shop.cli.command("report")
    def report() -> None:
        shop.enqueue("a")

    result = shop.test_cli_runner().invoke(args=["report"])

    assert result.exception is None
    assert shop.books() == {"collected": 1}


# A test's own collector.


class Double:
    """A collector that only records its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.events_to_publish: list[Any] = []

    def enqueue_event(
        self,
        payload: Any,
        target_queue: str,
        *,
        headers: Any = None,
        exchange: str | None = None,
        **options: Any,
    ) -> str:
        self.calls.append(f"enqueue {payload}")
        self.events_to_publish.append(payload)
        return "an event of its own"

    def publish(self, timeout: float | None = None) -> str:
        self.calls.append("publish")
        self.events_to_publish.clear()
        return "a result of its own"

    def clear_events_to_publish(self) -> int:
        self.calls.append("clear")
        self.events_to_publish.clear()
        return 7


def test_a_double_takes_the_calls_and_answers_them(shop: Shop) -> None:
    events: Any = shop.events
    with events.use_collector(Double()) as double:
        assert events.enqueue_event("a", "q") == "an event of its own"
        assert events.events_to_publish == ["a"]
        assert events.publish() == "a result of its own"
        assert events.clear_events_to_publish() == 7
        assert events.thread_singleton_instance() is double

    assert double.calls == ["enqueue a", "publish", "clear"]
    assert shop.books() == {}


def test_a_double_takes_the_place_of_a_requests_collector(shop: Shop) -> None:
    @shop.get("/")
    def view() -> str:
        shop.enqueue("a")
        return "ok"

    with shop.events.use_collector(double := Double()):
        shop.test_client().get("/")

    assert double.calls == ["enqueue a", "publish"]
    assert shop.books() == {}


def test_a_double_is_cleared_when_the_request_fails(shop: Shop) -> None:
    @shop.get("/")
    def view() -> tuple[str, int]:
        shop.enqueue("a")
        return "no", 500

    with shop.events.use_collector(double := Double()):
        shop.test_client().get("/")

    assert double.calls == ["enqueue a", "clear"]


def test_a_double_is_left_alone_by_a_request_that_finds_it_empty(shop: Shop) -> None:
    shop.add_url_rule("/", "view", lambda: "ok")

    with shop.events.use_collector(double := Double()):
        shop.test_client().get("/")

    assert double.calls == []


def test_a_double_takes_the_place_of_a_blocks_collector(shop: Shop) -> None:
    double = Double()

    with shop.events.use_collector(double), shop.events.auto_publish() as current:
        assert current is double
        shop.enqueue("a")

    assert double.calls == ["enqueue a", "publish"]


def test_a_double_is_cleared_when_a_block_raises(shop: Shop) -> None:
    @shop.events.auto_publish()
    def fail() -> None:
        shop.enqueue("a")
        raise ValueError("no")

    with (
        shop.events.use_collector(double := Double()),
        pytest.raises(ValueError, match="no"),
    ):
        fail()

    assert double.calls == ["enqueue a", "clear"]


def test_a_double_takes_the_place_of_every_threads_collector(shop: Shop) -> None:
    with shop.events.use_collector(double := Double()):
        in_thread(lambda: shop.enqueue("a"))

    assert double.calls == ["enqueue a"]


def test_a_double_serves_the_threads_that_run_when_it_comes(shop: Shop) -> None:
    came, enqueued = threading.Event(), threading.Event()

    def work() -> None:
        shop.enqueue("before")
        came.wait(DEADLINE)
        shop.enqueue("during")
        enqueued.set()

    thread = threading.Thread(target=work)
    thread.start()
    with shop.events.use_collector(double := Double()):
        came.set()
        assert enqueued.wait(DEADLINE)
    thread.join(DEADLINE)

    assert "enqueue during" in double.calls


def test_doubles_nest(shop: Shop) -> None:
    outer, inner = Double(), Double()

    with shop.events.use_collector(outer):
        with shop.events.use_collector(inner):
            shop.enqueue("a")
        shop.enqueue("b")
    shop.enqueue("c")

    assert (inner.calls, outer.calls) == (["enqueue a"], ["enqueue b"])
    assert shop.books() == {"collected": 1}


def test_a_double_goes_when_its_block_raises(shop: Shop) -> None:
    def fail() -> None:
        with shop.events.use_collector(Double()):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()

    shop.enqueue("a")
    assert shop.books() == {"collected": 1}


def test_what_was_collected_before_the_double_came_is_still_there_after_it(
    shop: Shop,
) -> None:
    with shop.test_request_context():
        shop.enqueue("a")
        with shop.events.use_collector(Double()):
            shop.enqueue("b")
        shop.enqueue("c")

    assert shop.sent() == ["a", "c"]
    assert shop.books() == {"confirmed": 2}


def test_a_double_needs_no_broker() -> None:
    app = flask.Flask(__name__)
    events = EventCollector(app)

    with events.use_collector(double := Double()):
        events.enqueue_event("a", "q")

    assert double.calls == ["enqueue a"]


def test_with_autoflush_a_double_is_published_at_once() -> None:
    with (
        open_shop(AUTOFLUSH=True) as shop,
        shop.events.use_collector(double := Double()),
    ):
        shop.enqueue("a")

    assert double.calls == ["enqueue a", "publish"]


def test_what_lacks_a_collectors_methods_is_no_double(shop: Shop) -> None:
    class Half:
        def enqueue_event(self) -> None: ...

        def publish(self) -> None: ...

    double: Any = Half()

    with (
        pytest.raises(
            TypeError, match="Half has no clear_events_to_publish, events_to_publish"
        ),
        shop.events.use_collector(double),
    ):
        pytest.fail("it was taken")
    shop.enqueue("a")
    assert shop.books() == {"collected": 1}
