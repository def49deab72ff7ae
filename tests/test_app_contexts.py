"""An app context warns of events left unpublished in its thread's collector."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import flask
import pytest
from blinker import NamedSignal

from flask_eventcollector import (
    EventCollector,
    event_enqueued,
    events_discarded,
    events_published,
)
from tests.helpers import Shop, in_thread, open_shop, payloads


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


@pytest.fixture
def publishing_shop() -> Iterator[Shop]:
    """A shop that publishes the events left by an app context."""
    with open_shop(AT_CONTEXT_END="publish") as shop:
        yield shop


def run_job(shop: Shop, *payloads: Any, error: BaseException | None = None) -> None:
    """Run a job as Flask's documentation shows it for Celery."""
    with shop.app_context():
        shop.enqueue(*payloads)
        if error is not None:
            raise error


def fail_job(shop: Shop, *payloads: Any) -> None:
    with pytest.raises(ValueError, match="no"):
        run_job(shop, *payloads, error=ValueError("no"))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


# A warning, the default.


def test_a_job_that_forgets_to_publish_is_warned(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    run_job(shop, "a", "b")

    (line,) = lines(caplog)
    assert line.startswith(
        "Left unpublished 2 events for q: the app context ended without a publish();"
    )
    assert "auto_publish" in line
    assert "EVENTCOLLECTOR_AT_CONTEXT_END" in line
    assert shop.events.publish().confirmed == 2


def test_a_job_that_fails_is_warned_with_its_exception(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    fail_job(shop, "a")

    (line,) = lines(caplog)
    assert "1 event for q: the app context ended with ValueError;" in line
    assert "the thread's next publish() sends them" in line


def test_jobs_that_forget_to_publish_are_warned_once_a_minute(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(190):
        run_job(shop, "a")
    shop.events.publish()
    shop.events.close(0)

    first, last = lines(caplog)
    assert "Left unpublished 1 event for q" in first
    assert "Left unpublished 189 events for q" in last


@pytest.mark.parametrize("end", ["publish", "clear_events_to_publish"])
def test_a_job_that_leaves_nothing_is_not_warned(
    shop: Shop, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    with shop.app_context():
        shop.enqueue("a")
        getattr(shop.events, end)()

    assert lines(caplog) == []


def test_only_events_enqueued_in_the_context_itself_are_reported(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.enqueue("before")
    with shop.app_context():
        shop.events.thread_singleton_instance()
    assert lines(caplog) == []

    run_job(shop, "a", "b")
    assert "Left unpublished 2 events" in lines(caplog)[0]


def test_events_enqueued_after_a_publish_are_reported(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.enqueue("before")
    with shop.app_context():
        shop.enqueue("a", "b")
        shop.events.publish()
        shop.enqueue("c")

    assert "Left unpublished 1 event" in lines(caplog)[0]


@pytest.mark.parametrize(
    ("signal", "run"),
    [(events_published, run_job), (events_discarded, fail_job)],
    ids=["published", "discarded"],
)
def test_what_joins_the_thread_s_collector_meanwhile_stays_there(
    publishing_shop: Shop, signal: NamedSignal, run: Callable[..., None]
) -> None:
    shop = publishing_shop
    collector = shop.events.thread_singleton_instance()

    def report(sender: Any, **extra: Any) -> None:
        collector.enqueue_event("report", "reports")

    with signal.connected_to(report, sender=shop):
        run(shop, "a")
    assert payloads(collector.events_to_publish) == ["report"]


def test_events_enqueued_by_a_later_teardown_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class WithLateTeardown(EventCollector):
        def init_app(self, app: flask.Flask) -> None:
            # Teardown functions run in the reverse order of their registration.
            app.teardown_appcontext(lambda error: late.enqueue("a", queue="late"))
            super().init_app(app)

    late = Shop(WithLateTeardown())
    run_job(late, "a")

    assert "Left unpublished 1 event for q: " in lines(caplog)[0]
    assert "Left unpublished 1 event for late: " in lines(caplog)[1]
    late.events.close(0)


def test_requests_and_blocks_in_an_app_context_are_not_warned(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    @shop.get("/")
    def view() -> str:
        shop.enqueue("request")
        return "ok"

    with shop.app_context():
        shop.test_client().get("/")
        with shop.events.auto_publish():
            shop.enqueue("block")

    assert shop.books() == {"confirmed": 2}
    assert lines(caplog) == []


def test_the_threads_collector_in_a_request_is_not_warned(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with shop.test_request_context():
        shop.events.thread_singleton_instance().enqueue_event("a", "q")

    assert lines(caplog) == []


def test_events_enqueued_by_a_receiver_outside_of_app_contexts_are_not_reported(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def receive(sender: flask.Flask, event: Any, **extra: Any) -> None:
        if event.payload == "a":
            shop.enqueue("from the receiver")

    with event_enqueued.connected_to(receiver=receive, sender=shop):
        shop.enqueue("a")

    assert shop.books() == {"collected": 2}
    assert lines(caplog) == []


def test_each_of_two_nested_contexts_reports_its_own_events(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with shop.app_context():
        shop.enqueue("outer")
        fail_job(shop, "inner", "inner")
        assert "2 events for q: the app context ended with ValueError" in caplog.text
        assert shop.events.publish().confirmed == 3

    assert len(lines(caplog)) == 1


def test_another_apps_context_does_not_end_the_work(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with shop.app_context():
        shop.enqueue("a")
        with flask.Flask("other").app_context():
            pass
        shop.events.publish()

    assert lines(caplog) == []


def test_flasks_shell_is_not_warned(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with shop.app_context():
        shop.make_shell_context()
        shop.enqueue("a")

    assert shop.sent() == ["a"]
    assert lines(caplog) == []


def test_a_double_is_not_warned(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with shop.events.use_collector(Double()):
        run_job(shop, "a")

    assert lines(caplog) == []


def test_keep_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with open_shop(AT_CONTEXT_END="keep") as shop:
        run_job(shop, "a")
        fail_job(shop, "b")

        assert lines(caplog) == []
        assert shop.events.publish().confirmed == 2


# Publishing.


class Double:
    """A collector that records its calls."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def enqueue_event(self, *about: Any, **options: Any) -> None:
        self.asked.append("enqueue")

    def publish(self, timeout: float | None = None) -> None:
        self.asked.append("publish")

    def clear_events_to_publish(self) -> None:
        self.asked.append("clear")

    @property
    def events_to_publish(self) -> tuple[Any, ...]:
        return ()


def test_a_job_is_published_at_its_end(publishing_shop: Shop) -> None:
    run_job(publishing_shop, "a", "b")

    assert publishing_shop.sent() == ["a", "b"]


def test_a_job_that_fails_leaves_no_ghost(publishing_shop: Shop) -> None:
    fail_job(publishing_shop, "a")
    run_job(publishing_shop, "b")

    assert publishing_shop.sent() == ["b"]
    assert publishing_shop.books() == {"confirmed": 1, "discarded": 1}


@pytest.mark.parametrize("fails", [False, True])
def test_a_context_ends_only_what_it_has_enqueued_itself(
    publishing_shop: Shop, fails: bool
) -> None:
    publishing_shop.enqueue("before")

    (fail_job if fails else run_job)(publishing_shop, "a")

    fate = "discarded" if fails else "confirmed"
    assert publishing_shop.books() == {"collected": 1, fate: 1}
    assert publishing_shop.events.publish().confirmed == 1


def test_what_a_block_has_published_is_not_published_again(
    publishing_shop: Shop,
) -> None:
    with publishing_shop.app_context():
        publishing_shop.enqueue("a")
        assert publishing_shop.events.publish().confirmed == 1

    assert publishing_shop.sent() == ["a"]


def test_jobs_of_many_threads_do_not_mix(publishing_shop: Shop) -> None:
    publishing_shop.enqueue("mine")

    in_thread(lambda: run_job(publishing_shop, "theirs"))

    assert publishing_shop.sent() == ["theirs"]


def test_what_any_teardown_enqueues_is_published(publishing_shop: Shop) -> None:
    publishing_shop.teardown_appcontext(lambda error: publishing_shop.enqueue("b"))

    run_job(publishing_shop, "a")

    assert publishing_shop.books() == {"confirmed": 2}


@pytest.mark.parametrize(
    ("leave", "fate"),
    [
        (lambda: None, "confirmed"),
        (lambda: sys.exit(), "confirmed"),
        (lambda: sys.exit(0), "confirmed"),
        (lambda: sys.exit(3), "discarded"),
        (lambda: sys.exit("no"), "discarded"),
        (lambda: 1 / 0, "discarded"),
    ],
)
def test_a_command_is_judged_by_how_it_ends(
    publishing_shop: Shop, leave: Callable[[], object], fate: str
) -> None:
    if fate == "discarded" and not hasattr(click.Context, "_close_with_exception_info"):
        pytest.skip("this Click does not tell an app context of an exception")

    @publishing_shop.cli.command()
    def work() -> None:
        publishing_shop.enqueue("a")
        leave()

    publishing_shop.test_cli_runner().invoke(args=["work"])

    assert publishing_shop.books() == {fate: 1}


@pytest.mark.parametrize(("work", "asked"), [(run_job, "publish"), (fail_job, "clear")])
def test_a_double_is_asked_too(
    publishing_shop: Shop, work: Callable[..., None], asked: str
) -> None:
    double = Double()
    with publishing_shop.events.use_collector(double):
        work(publishing_shop, "a")

    assert double.asked == ["enqueue", asked]


def test_a_double_that_raises_disturbs_no_job(
    publishing_shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Double, "publish", lambda self: 1 / 0)
    with publishing_shop.events.use_collector(Double()):
        run_job(publishing_shop, "a")

    assert "App context teardown failed" in caplog.text
