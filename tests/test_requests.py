"""A request is a unit of work, however it ends, and in any context."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NoReturn

import flask
import pytest
from flask import Response, abort, copy_current_request_context, stream_with_context
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from flask_eventcollector import EventCollector
from tests.helpers import DEADLINE, Shop, in_thread, open_shop, wait_until


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


@pytest.fixture
def eager_shop() -> Iterator[Shop]:
    """A shop that publishes regardless of the request's outcome."""
    with open_shop(PUBLISH_ON="always") as shop:
        yield shop


def add_view(shop: Shop, answer: Any = "ok", path: str = "/") -> None:
    """A view that enqueues "a", then returns or raises *answer*."""

    @shop.get(path, endpoint=path)
    def view() -> Any:
        shop.enqueue("a")
        if isinstance(answer, BaseException):
            raise answer
        return answer


def shop_with_another(when: str, register: Callable[[flask.Flask], Any]) -> Shop:
    """A shop with another extension, registered before ours or after it."""

    class Other(EventCollector):
        def init_app(self, app: flask.Flask) -> None:
            if when == "registered before ours":
                register(app)
            super().init_app(app)
            if when == "registered after ours":
                register(app)

    return Shop(Other())


both_orders = pytest.mark.parametrize(
    "when", ["registered before ours", "registered after ours"]
)


def status_of(shop: Shop, path: str = "/") -> int:
    return shop.test_client().get(path).status_code


def begin(shop: Shop, path: str = "/") -> Any:
    """Run the app as a server does, up to the body; returns the body's iterator."""
    environ = EnvironBuilder(path).get_environ()
    return iter(shop.wsgi_app(environ, lambda *args: lambda data: None))


# Requests that succeed, or enqueue nothing.


def test_a_successful_request_publishes_what_it_enqueued_in_order(shop: Shop) -> None:
    @shop.get("/")
    def view() -> str:
        shop.enqueue(1, 2, 3)
        return "ok"

    assert status_of(shop) == 200

    assert shop.sent() == [1, 2, 3]
    assert shop.books() == {"confirmed": 3}


def test_nothing_is_sent_before_the_request_has_ended(shop: Shop) -> None:
    seen: list[dict[str, int]] = []

    @shop.get("/")
    def view() -> str:
        shop.enqueue("a")
        seen.append(shop.books())
        return "ok"

    status_of(shop)

    assert seen == [{"collected": 1}]


def test_a_request_that_enqueues_nothing_touches_no_broker(shop: Shop) -> None:
    shop.add_url_rule("/", "view", lambda: "ok")

    assert status_of(shop) == 200

    assert not shop.extensions["eventcollector"].delivery_if_used()


def test_what_a_view_has_published_itself_is_not_published_again(shop: Shop) -> None:
    @shop.get("/")
    def view() -> str:
        shop.enqueue("a")
        assert shop.events.publish().confirmed == 1
        shop.enqueue("b")
        return "ok"

    status_of(shop)

    assert shop.sent() == ["a", "b"]
    assert shop.books() == {"confirmed": 2}


def test_what_a_view_has_cleared_is_not_published(shop: Shop) -> None:
    @shop.get("/")
    def view() -> str:
        shop.enqueue("a", "b")
        assert shop.events.clear_events_to_publish() == 2
        shop.enqueue("c")
        return "ok"

    status_of(shop)

    assert shop.sent() == ["c"]
    assert shop.books() == {"confirmed": 1, "discarded": 2}


def test_each_request_has_a_collector_of_its_own(shop: Shop) -> None:
    seen: list[int] = []

    @shop.get("/")
    def view() -> str:
        seen.append(len(shop.events.events_to_publish))
        shop.enqueue("a")
        return "ok"

    status_of(shop)
    status_of(shop)

    assert seen == [0, 0]
    assert shop.books() == {"confirmed": 2}


def test_requests_in_many_threads_do_not_mix(shop: Shop) -> None:
    both_in_the_view = threading.Barrier(2)

    @shop.get("/<name>")
    def view(name: str) -> str:
        shop.enqueue(f"{name}1")
        both_in_the_view.wait(DEADLINE)
        shop.enqueue(f"{name}2")
        collected = [e.payload for e in shop.events.events_to_publish]
        return ",".join(collected)

    bodies: list[str] = []
    threads = [
        threading.Thread(
            target=lambda name=name: bodies.append(
                shop.test_client().get(f"/{name}").text
            )
        )
        for name in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)

    assert sorted(bodies) == ["a1,a2", "b1,b2"]
    assert shop.books() == {"confirmed": 4}


def test_an_event_enqueued_by_after_request_goes_with_the_request(shop: Shop) -> None:
    add_view(shop)

    @shop.after_request
    def note(response: Response) -> Response:
        shop.enqueue("b")
        return response

    status_of(shop)

    assert shop.sent() == ["a", "b"]


def test_an_event_enqueued_by_before_request_goes_with_the_request(
    shop: Shop,
) -> None:
    add_view(shop)
    shop.before_request(lambda: shop.enqueue("first"))

    status_of(shop)

    assert shop.sent() == ["first", "a"]


# Exceptions and statuses.


def test_an_unhandled_exception_discards(shop: Shop) -> None:
    add_view(shop, ValueError("no"))

    assert status_of(shop) == 500

    assert shop.books() == {"discarded": 1}


def test_an_exception_that_flask_lets_through_discards(shop: Shop) -> None:
    shop.config["PROPAGATE_EXCEPTIONS"] = True
    add_view(shop, ValueError("no"))

    with pytest.raises(ValueError, match="no"):
        status_of(shop)

    assert shop.books() == {"discarded": 1}


def test_an_unhandled_exception_discards_regardless_of_the_error_page(
    shop: Shop,
) -> None:
    add_view(shop, ValueError("no"))
    shop.register_error_handler(500, lambda error: ("all is well", 200))

    assert status_of(shop) == 200

    assert shop.books() == {"discarded": 1}


def test_what_the_handler_of_an_unhandled_exception_enqueues_is_discarded_too(
    shop: Shop,
) -> None:
    add_view(shop, ValueError("no"))

    @shop.errorhandler(500)
    def handle(error: Exception) -> tuple[str, int]:
        shop.enqueue("b")
        return "no", 500

    status_of(shop)

    assert shop.books() == {"discarded": 2}


def test_abort_discards(shop: Shop) -> None:
    @shop.get("/<int:status>")
    def view(status: int) -> NoReturn:
        shop.enqueue(status)
        abort(status)

    assert [status_of(shop, f"/{n}") for n in (400, 404, 500)] == [400, 404, 500]

    assert shop.books() == {"discarded": 3}


def test_a_handled_exception_discards_when_the_answer_is_a_failure(
    shop: Shop,
) -> None:
    add_view(shop, ValueError("no"))
    shop.register_error_handler(ValueError, lambda error: ("bad", 422))

    assert status_of(shop) == 422

    assert shop.books() == {"discarded": 1}


def test_a_handled_exception_publishes_when_the_answer_is_a_success(
    shop: Shop,
) -> None:
    add_view(shop, ValueError("no"))
    shop.register_error_handler(ValueError, lambda error: ("mended", 200))

    assert status_of(shop) == 200

    assert shop.sent() == ["a"]
    assert shop.books() == {"confirmed": 1}


@pytest.mark.parametrize(
    ("status", "books"), [(200, {"confirmed": 1}), (503, {"discarded": 1})]
)
def test_a_handler_of_all_exceptions_decides_by_its_status(
    shop: Shop, status: int, books: dict[str, int]
) -> None:
    add_view(shop, ValueError("no"))
    shop.register_error_handler(Exception, lambda error: ("handled", status))

    assert status_of(shop) == status

    assert shop.books() == books


@pytest.mark.parametrize(
    ("status", "books"),
    [
        (201, {"confirmed": 1}),
        (302, {"confirmed": 1}),
        (399, {"confirmed": 1}),
        (400, {"discarded": 1}),
        (503, {"discarded": 1}),
    ],
)
def test_a_status_of_400_or_above_discards(
    shop: Shop, status: int, books: dict[str, int]
) -> None:
    add_view(shop, ("body", status))

    assert status_of(shop) == status

    assert shop.books() == books


@both_orders
def test_an_after_request_that_makes_it_a_503_discards(when: str) -> None:
    def fail(response: Response) -> Response:
        response.status_code = 503
        return response

    shop = shop_with_another(when, lambda app: app.after_request(fail))
    add_view(shop)

    assert status_of(shop) == 503

    assert shop.books() == {"discarded": 1}


def test_an_after_request_that_makes_a_failure_a_success_publishes(
    shop: Shop,
) -> None:
    add_view(shop, ("no", 500))

    @shop.after_request
    def mend(response: Response) -> Response:
        response.status_code = 200
        return response

    assert status_of(shop) == 200

    assert shop.books() == {"confirmed": 1}


@pytest.mark.parametrize("always", [True, False], ids=["always", "at first"])
def test_an_after_request_that_raises_discards(shop: Shop, always: bool) -> None:
    add_view(shop)
    calls: list[int] = []

    @shop.after_request
    def fail(response: Response) -> Response:
        calls.append(response.status_code)
        if always or len(calls) == 1:
            raise RuntimeError("another extension's bug")
        return response

    assert status_of(shop) == 500

    assert len(calls) == 2
    assert shop.books() == {"discarded": 1}


def test_a_receiver_of_request_finished_that_raises_discards(shop: Shop) -> None:
    add_view(shop)

    def fail(sender: flask.Flask, **extra: Any) -> None:
        raise RuntimeError("another extension's bug")

    with flask.request_finished.connected_to(fail, shop):
        assert status_of(shop) == 500

    assert shop.books() == {"discarded": 1}


# A worker that was asked to stop.


def test_a_worker_that_is_stopped_in_the_view_discards(shop: Shop) -> None:
    add_view(shop, SystemExit(1))

    with pytest.raises(SystemExit):
        status_of(shop)

    assert shop.books() == {"discarded": 1}


def test_a_worker_that_is_stopped_waits_for_no_confirm() -> None:
    with open_shop(PUBLISH_ON="always", CONFIRM_TIMEOUT=2 * DEADLINE) as shop:
        add_view(shop, SystemExit(1))
        shop.silence()
        began = time.monotonic()

        with pytest.raises(SystemExit):
            status_of(shop)

        assert time.monotonic() - began < DEADLINE
        assert shop.books() == {"in_flight": 1}


def test_a_worker_that_is_stopped_publishes_if_it_always_does(
    eager_shop: Shop,
) -> None:
    add_view(eager_shop, SystemExit(1))

    with pytest.raises(SystemExit):
        status_of(eager_shop)

    assert eager_shop.sent() == ["a"]
    assert eager_shop.books() == {"confirmed": 1}


# Streamed bodies.


def add_stream(
    shop: Shop, *, error: Exception | None = None, status: int = 200
) -> None:
    """A view that enqueues "view", and a body that enqueues 0, 1, and so on."""

    @shop.get("/")
    def view() -> Response:
        def body() -> Iterator[str]:
            for number in range(3):
                shop.enqueue(number)
                yield str(number)
                if error is not None:
                    raise error

        shop.enqueue("view")
        return Response(stream_with_context(body()), status=status)


def test_a_stream_publishes_what_was_enqueued_before_it_and_in_it(
    shop: Shop,
) -> None:
    add_stream(shop)

    assert shop.test_client().get("/").text == "012"

    assert shop.sent() == ["view", 0, 1, 2]
    assert shop.books() == {"confirmed": 4}


def test_a_stream_with_a_failing_status_discards_all(shop: Shop) -> None:
    add_stream(shop, status=503)

    assert shop.test_client().get("/").text == "012"

    assert shop.books() == {"discarded": 4}


def test_a_client_that_hangs_up_makes_no_failure(shop: Shop) -> None:
    add_stream(shop)
    body = begin(shop)
    assert next(body) == b"0"

    body.close()

    assert shop.sent() == ["view", 0]
    assert shop.books() == {"confirmed": 2}


def test_a_client_that_hangs_up_before_the_body_begins_makes_no_failure(
    shop: Shop,
) -> None:
    add_stream(shop)

    begin(shop).close()

    assert shop.sent() == ["view"]
    assert shop.books() == {"confirmed": 1}


def test_a_stream_that_raises_discards_what_it_had_enqueued_itself(
    shop: Shop,
) -> None:
    add_stream(shop, error=ValueError("in the middle"))
    body = begin(shop)
    next(body)

    with pytest.raises(ValueError, match="in the middle"):
        next(body)

    books = shop.books()
    # Flask 3.1.2 and 3.1.3 end the request before the body as well.
    assert books in ({"confirmed": 1, "discarded": 1}, {"discarded": 2})
    assert shop.sent() in (["view"], [])


def test_an_unread_stream_loses_nothing_uncounted(shop: Shop) -> None:
    add_stream(shop)
    body = begin(shop)

    del body
    gc.collect()

    assert shop.books() in ({"confirmed": 1}, {"discarded": 1})


def test_a_stream_that_is_abandoned_in_the_middle_is_discarded_with_a_warning(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Flask can't pop its contexts in a thread that has not pushed them.
    monkeypatch.setattr(sys, "unraisablehook", lambda error: None)
    add_stream(shop)
    bodies: list[Any] = []

    def read_a_little() -> None:
        bodies.append(begin(shop))
        next(bodies[0])

    in_thread(read_a_little)
    bodies.clear()
    gc.collect()

    # Flask 3.1.2 and 3.1.3 end the request before the body as well.
    assert shop.books() in ({"confirmed": 1, "discarded": 1}, {"discarded": 2})
    assert re.search("Discarded .* for q: collector abandoned", caplog.text)


def test_a_garbage_collected_request_context_is_discarded_with_a_warning(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def forget() -> None:
        shop.test_request_context().push()
        shop.enqueue("a")

    contextvars.Context().run(forget)
    gc.collect()

    assert shop.books() == {"discarded": 1}
    assert "collector abandoned" in caplog.text


def test_a_stream_without_the_request_context_is_no_part_of_the_request(
    shop: Shop,
) -> None:
    @shop.get("/")
    def view() -> Response:
        def body() -> Iterator[str]:
            shop.enqueue("from outside")
            yield "x"

        shop.enqueue("view")
        return Response(body())

    assert shop.test_client().get("/").text == "x"

    assert shop.sent() == ["view"]
    assert shop.events.clear_events_to_publish() == 1


# Contexts that outlive the request.


def test_a_client_in_a_with_block_publishes_once_and_at_the_request(
    shop: Shop,
) -> None:
    add_view(shop)

    with shop.test_client() as client:
        client.get("/")
        first = shop.sent()
        client.get("/")
        second = shop.sent()

    assert (first, second, shop.sent()) == (["a"], ["a", "a"], ["a", "a"])
    assert shop.books() == {"confirmed": 2}


def test_what_is_enqueued_after_the_request_in_a_clients_with_block_follows_it(
    shop: Shop,
) -> None:
    add_view(shop)

    with shop.test_client() as client:
        client.get("/")
        shop.enqueue("b")
        assert shop.books() == {"confirmed": 1, "collected": 1}

    assert shop.sent() == ["a", "b"]
    assert shop.books() == {"confirmed": 2}


def test_what_is_enqueued_after_a_failed_request_is_judged_by_its_failure(
    shop: Shop,
) -> None:
    add_view(shop, ("no", 500))

    with shop.test_client() as client:
        client.get("/")
        shop.enqueue("b")

    assert shop.books() == {"discarded": 2}


def test_requests_of_a_client_in_a_with_block_do_not_share_their_outcome(
    shop: Shop,
) -> None:
    add_view(shop, ("no", 500), "/bad")
    add_view(shop, "ok", "/good")

    with shop.test_client() as client:
        client.get("/bad")
        client.get("/good")
        client.get("/bad")

    assert shop.books() == {"confirmed": 1, "discarded": 2}


def test_a_test_request_context_publishes_at_its_end(shop: Shop) -> None:
    with shop.test_request_context():
        shop.enqueue("a")
        assert shop.books() == {"collected": 1}

    assert shop.sent() == ["a"]
    assert shop.books() == {"confirmed": 1}


def test_a_test_request_context_that_raises_discards(shop: Shop) -> None:
    def fail() -> NoReturn:
        with shop.test_request_context():
            shop.enqueue("a")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()

    assert shop.books() == {"discarded": 1}


def test_a_request_context_around_a_whole_test_keeps_its_own_events(
    shop: Shop,
) -> None:
    add_view(shop)
    add_view(shop, ("no", 500), "/bad")
    around = shop.test_request_context()
    around.push()
    shop.enqueue("test")

    status_of(shop)
    status_of(shop, "/bad")
    during = shop.sent(), shop.books()
    around.pop()

    assert during == (["a"], {"confirmed": 1, "discarded": 1, "collected": 1})
    assert shop.sent() == ["a", "test"]
    assert shop.books() == {"confirmed": 2, "discarded": 1}


@pytest.fixture
def app(shop: Shop) -> Shop:
    """pytest-flask pushes a request context for each test that uses this."""
    add_view(shop)
    return shop


def test_pytest_flasks_client_publishes_each_request_once(
    app: Shop, client: FlaskClient
) -> None:
    assert flask.has_request_context()

    client.get("/")
    client.get("/")

    assert app.sent() == ["a", "a"]
    assert app.books() == {"confirmed": 2}


def test_pytest_flasks_context_does_not_take_up_a_requests_events(
    app: Shop, client: FlaskClient
) -> None:
    client.get("/")

    assert app.events.events_to_publish == ()


# Requests in requests, and app contexts around them.


def test_a_nested_request_has_a_collector_of_its_own(shop: Shop) -> None:
    add_view(shop, path="/inner")

    @shop.get("/outer")
    def outer() -> str:
        shop.enqueue("before")
        status_of(shop, "/inner")
        assert shop.sent() == ["a"]
        shop.enqueue("after")
        return "ok"

    assert status_of(shop, "/outer") == 200

    assert shop.sent() == ["a", "before", "after"]
    assert shop.books() == {"confirmed": 3}


def test_a_nested_request_that_fails_takes_nothing_with_it(shop: Shop) -> None:
    add_view(shop, ValueError("no"), "/inner")

    @shop.get("/outer")
    def outer() -> str:
        shop.enqueue("before")
        assert status_of(shop, "/inner") == 500
        return "ok"

    assert status_of(shop, "/outer") == 200

    assert shop.sent() == ["before"]
    assert shop.books() == {"confirmed": 1, "discarded": 1}


def test_an_outer_request_that_fails_leaves_what_the_nested_one_published(
    shop: Shop,
) -> None:
    add_view(shop, path="/inner")

    @shop.get("/outer")
    def outer() -> NoReturn:
        shop.enqueue("before")
        status_of(shop, "/inner")
        raise ValueError("no")

    assert status_of(shop, "/outer") == 500

    assert shop.sent() == ["a"]
    assert shop.books() == {"confirmed": 1, "discarded": 1}


def test_many_requests_in_one_app_context_stay_apart(shop: Shop) -> None:
    add_view(shop, path="/good")
    add_view(shop, ValueError("no"), "/bad")

    with shop.app_context():
        for path in ("/bad", "/good", "/bad", "/good"):
            status_of(shop, path)
        during = shop.books()

    assert during == {"confirmed": 2, "discarded": 2}
    assert shop.books() == during


def test_what_an_outer_app_context_enqueues_is_no_requests(shop: Shop) -> None:
    add_view(shop)

    with shop.app_context():
        shop.enqueue("outer")
        status_of(shop)
        assert shop.sent() == ["a"]
        assert shop.events.publish().confirmed == 1

    assert shop.sent() == ["a", "outer"]


def test_an_app_context_inside_a_request_belongs_to_the_request(shop: Shop) -> None:
    @shop.get("/")
    def view() -> str:
        with shop.app_context():
            shop.enqueue("a")
        assert shop.books() == {"collected": 1}
        shop.enqueue("b")
        return "ok"

    status_of(shop)

    assert shop.sent() == ["a", "b"]
    assert shop.books() == {"confirmed": 2}


# Other extensions' teardown functions.


def failing_teardown(error: BaseException | None) -> None:
    raise RuntimeError("another extension's bug")


def shop_with_a_failing_teardown(when: str) -> Shop:
    """Teardown functions run in the reverse order of their registration."""
    return shop_with_another(when, lambda app: app.teardown_request(failing_teardown))


@both_orders
def test_a_teardown_that_raises_keeps_no_successful_request_from_publishing(
    when: str,
) -> None:
    shop = shop_with_a_failing_teardown(when)
    add_view(shop)

    with pytest.raises(RuntimeError, match="another extension's bug"):
        status_of(shop)

    assert shop.sent() == ["a"]
    assert shop.books() == {"confirmed": 1}


@both_orders
@pytest.mark.parametrize("answer", [ValueError("no"), ("no", 500)], ids=str)
def test_a_teardown_that_raises_makes_no_failed_request_publish(
    when: str, answer: Any
) -> None:
    shop = shop_with_a_failing_teardown(when)
    add_view(shop, answer)

    with pytest.raises(RuntimeError, match="another extension's bug"):
        status_of(shop)

    assert shop.books() == {"discarded": 1}


@both_orders
def test_a_teardown_that_raises_in_an_outer_app_context_mixes_no_requests(
    when: str,
) -> None:
    shop = shop_with_a_failing_teardown(when)
    add_view(shop, ValueError("no"), "/bad")
    add_view(shop, path="/good")

    with shop.app_context():
        for path in ("/bad", "/good", "/bad"):
            with pytest.raises(RuntimeError, match="another extension's bug"):
                status_of(shop, path)

    assert shop.sent() == ["a"]
    assert shop.books() == {"confirmed": 1, "discarded": 2}


@both_orders
def test_a_stopped_worker_with_a_teardown_that_raises_discards(when: str) -> None:
    shop = shop_with_a_failing_teardown(when)
    add_view(shop, SystemExit(1))

    with (
        shop.app_context(),
        pytest.raises(RuntimeError, match="another extension's bug"),
    ):
        status_of(shop)

    assert shop.books() == {"discarded": 1}


@both_orders
def test_a_teardown_that_raises_hides_no_exception_behind_a_friendly_error_page(
    when: str,
) -> None:
    shop = shop_with_a_failing_teardown(when)
    shop.register_error_handler(500, lambda error: ("all is well", 200))
    add_view(shop, ValueError("no"))

    with (
        shop.app_context(),
        pytest.raises(RuntimeError, match="another extension's bug"),
    ):
        status_of(shop)

    assert shop.books() == {"discarded": 1}


@both_orders
def test_a_nested_request_with_a_teardown_that_raises_mixes_no_requests(
    when: str,
) -> None:
    shop = shop_with_a_failing_teardown(when)
    add_view(shop, ("no", 500), path="/inner")

    @shop.get("/outer")
    def outer() -> str:
        shop.enqueue("outer")
        with pytest.raises(RuntimeError, match="another extension's bug"):
            status_of(shop, "/inner")
        return "ok"

    with pytest.raises(RuntimeError, match="another extension's bug"):
        status_of(shop, "/outer")

    assert shop.sent() == ["outer"]
    assert shop.books() == {"confirmed": 1, "discarded": 1}


@pytest.mark.parametrize("outer", [False, True], ids=["alone", "outer app context"])
@both_orders
def test_what_anothers_teardown_enqueues_goes_with_the_request(
    when: str, outer: bool
) -> None:
    def enqueue_more(error: BaseException | None) -> None:
        peer.enqueue("from a teardown")

    peer = shop_with_another(when, lambda app: app.teardown_request(enqueue_more))
    add_view(peer)

    with peer.app_context() if outer else nullcontext():
        status_of(peer)

    assert peer.sent() == ["a", "from a teardown"]
    assert peer.books() == {"confirmed": 2}


@pytest.mark.parametrize("status", [200, 500])
def test_what_anothers_teardown_enqueues_is_judged_like_the_request(
    shop: Shop, status: int
) -> None:
    shop.add_url_rule("/", "view", lambda: ("body", status))
    shop.teardown_request(lambda error: shop.enqueue("from a teardown"))

    status_of(shop)

    expected = {"confirmed": 1} if status == 200 else {"discarded": 1}
    assert shop.books() == expected


@both_orders
@pytest.mark.parametrize("status", [200, 500])
def test_what_the_app_contexts_teardown_enqueues_goes_with_the_request(
    when: str, status: int
) -> None:
    # As a hook of a commit in Flask-SQLAlchemy's teardown does.
    def commit(error: BaseException | None) -> None:
        peer.enqueue("committed")

    peer = shop_with_another(when, lambda app: app.teardown_appcontext(commit))
    add_view(peer, ("body", status))

    for _ in range(2):
        status_of(peer)

    fate = "confirmed" if status == 200 else "discarded"
    assert peer.books() == {fate: 4}


def test_what_a_block_in_the_app_contexts_teardown_enqueues_is_its_own(
    shop: Shop,
) -> None:
    @shop.teardown_appcontext
    def commit(error: BaseException | None) -> None:
        shop.enqueue("request")
        with shop.events.auto_publish():
            shop.enqueue("block")

    add_view(shop, ("body", 500))
    status_of(shop)

    assert shop.sent() == ["block"]
    assert shop.books() == {"confirmed": 1, "discarded": 2}


def test_an_outer_app_contexts_teardown_enqueues_for_no_request(shop: Shop) -> None:
    shop.teardown_appcontext(lambda error: shop.enqueue("outer"))
    add_view(shop)

    with shop.app_context():
        status_of(shop)

    assert shop.sent() == ["a"]
    assert shop.books() == {"confirmed": 1, "collected": 1}


def test_a_commit_that_raises_discards_what_its_hooks_enqueued(shop: Shop) -> None:
    @shop.teardown_appcontext
    def commit(error: BaseException | None) -> None:
        shop.enqueue("committed")
        raise RuntimeError("another extension's bug")

    add_view(shop)
    with pytest.raises(RuntimeError, match="another extension's bug"):
        status_of(shop)
    gc.collect()

    assert shop.sent() == ["a"]
    assert shop.books() == {"confirmed": 1, "discarded": 1}


# Copies of a request's context.


def test_a_copied_context_that_ends_first_publishes_its_own_events(
    shop: Shop,
) -> None:
    @shop.get("/")
    def view() -> str:
        @copy_current_request_context
        def work() -> None:
            shop.enqueue("copy")

        shop.enqueue("view")
        in_thread(work)
        assert shop.sent() == ["copy"]
        assert shop.books() == {"confirmed": 1, "collected": 1}
        return "ok"

    assert status_of(shop) == 200

    assert shop.sent() == ["copy", "view"]
    assert shop.books() == {"confirmed": 2}


def test_a_copied_context_that_ends_after_the_response_publishes_its_own_events(
    shop: Shop,
) -> None:
    answered, threads = threading.Event(), []

    @shop.get("/")
    def view() -> str:
        @copy_current_request_context
        def work() -> None:
            shop.enqueue("early")
            answered.wait(DEADLINE)
            shop.enqueue("late")

        shop.enqueue("view")
        threads.append(threading.Thread(target=work))
        threads[0].start()
        return "ok"

    assert status_of(shop) == 200
    assert shop.sent() == ["view"]
    answered.set()
    threads[0].join(DEADLINE)

    assert shop.sent() == ["view", "early", "late"]
    assert shop.books() == {"confirmed": 3}


def test_a_copied_context_that_raises_discards_only_its_own_events(
    shop: Shop,
) -> None:
    @shop.get("/")
    def view() -> str:
        @copy_current_request_context
        def work() -> None:
            shop.enqueue("copy")
            raise ValueError("no")

        shop.enqueue("view")
        with pytest.raises(ValueError, match="no"):
            in_thread(work)
        return "ok"

    assert status_of(shop) == 200

    assert shop.sent() == ["view"]
    assert shop.books() == {"confirmed": 1, "discarded": 1}


# Async views.


def test_an_async_view_publishes(shop: Shop) -> None:
    @shop.get("/")
    async def view() -> str:
        shop.enqueue("a")
        await asyncio.sleep(0)
        shop.enqueue("b")
        return "ok"

    assert status_of(shop) == 200

    assert shop.sent() == ["a", "b"]
    assert shop.books() == {"confirmed": 2}


def test_an_async_view_that_raises_discards(shop: Shop) -> None:
    @shop.get("/")
    async def view() -> NoReturn:
        shop.enqueue("a")
        await asyncio.sleep(0)
        raise ValueError("no")

    assert status_of(shop) == 500

    assert shop.books() == {"discarded": 1}


def test_the_tasks_of_an_async_view_share_its_collector(shop: Shop) -> None:
    @shop.get("/")
    async def view() -> str:
        async def task(name: str) -> None:
            await asyncio.sleep(0)
            shop.enqueue(name)

        await asyncio.gather(task("a"), task("b"))
        return str(len(shop.events.events_to_publish))

    assert shop.test_client().get("/").text == "2"

    assert sorted(shop.sent()) == ["a", "b"]
    assert shop.books() == {"confirmed": 2}


# PUBLISH_ON.


@pytest.mark.parametrize("answer", [ValueError("no"), ("no", 500), "ok"], ids=repr)
def test_always_publishes_regardless_of_the_requests_outcome(
    eager_shop: Shop, answer: Any
) -> None:
    add_view(eager_shop, answer)

    status_of(eager_shop)

    assert eager_shop.sent() == ["a"]
    assert eager_shop.books() == {"confirmed": 1}


def test_always_publishes_what_a_failing_stream_has_enqueued(
    eager_shop: Shop,
) -> None:
    add_stream(eager_shop, error=ValueError("in the middle"))

    with pytest.raises(ValueError, match="in the middle"):
        eager_shop.test_client().get("/", buffered=True)

    assert eager_shop.sent() == ["view", 0]


def test_a_callable_decides_by_status_and_exception() -> None:
    asked: list[tuple[int | None, BaseException | None]] = []
    error = ValueError("no")

    def rule(status: int | None, exception: BaseException | None) -> bool:
        asked.append((status, exception))
        return status == 404

    with open_shop(PUBLISH_ON=rule) as shop:
        add_view(shop, "ok", "/ok")
        add_view(shop, ("none", 404), "/none")
        add_view(shop, error, "/error")
        for path in ("/ok", "/none", "/error"):
            status_of(shop, path)

        assert asked == [(200, None), (404, None), (500, error)]
        assert shop.books() == {"confirmed": 1, "discarded": 2}


def test_a_callable_is_not_asked_when_there_is_nothing_to_publish() -> None:
    asked: list[int | None] = []

    with open_shop(PUBLISH_ON=lambda status, error: asked.append(status)) as shop:

        @shop.get("/")
        def view() -> str:
            shop.enqueue("a")
            shop.events.publish()
            return "ok"

        status_of(shop)

    assert asked == []


def test_a_callable_that_raises_discards_and_disturbs_no_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def rule(status: int | None, exception: BaseException | None) -> bool:
        raise LookupError("the rule's bug")

    with open_shop(PUBLISH_ON=rule) as shop:
        add_view(shop)

        assert status_of(shop) == 200

        assert shop.books() == {"discarded": 1}
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert (
        record.getMessage() == "EVENTCOLLECTOR_PUBLISH_ON failed; events are discarded"
    )
    assert "the rule's bug" in caplog.text


# The broker does not affect the request.


def test_a_request_succeeds_while_the_broker_is_down(shop: Shop) -> None:
    add_view(shop)
    shop.faults.go_down()

    assert status_of(shop) == 200

    assert shop.books() == {"retained": 1}
    shop.faults.come_up()
    assert shop.books() == {"confirmed": 1}


@pytest.mark.parametrize("confirm_timeout", [0, 0.25])
def test_a_request_waits_for_a_reconnect_if_it_should(confirm_timeout: float) -> None:
    settings = {
        "CONFIRM_TIMEOUT": confirm_timeout,
        "RECONNECT_TIMEOUT": DEADLINE,
    }
    with open_shop(**settings) as shop:
        add_view(shop)
        shop.faults.go_down()
        request = threading.Thread(target=status_of, args=(shop,))
        request.start()
        wait_until(lambda: shop.books() == {"retained": 1}, "the request waits")
        assert request.is_alive()

        shop.faults.come_up()
        request.join(DEADLINE)

        assert shop.books() == {"confirmed": 1}


def test_a_request_waits_for_a_reconnect_no_longer_than_it_may() -> None:
    with open_shop(CONFIRM_TIMEOUT=0, RECONNECT_TIMEOUT=0.3) as shop:
        add_view(shop)
        shop.faults.go_down()
        begun = time.monotonic()
        assert status_of(shop) == 200

        assert 0.3 <= time.monotonic() - begun < DEADLINE
        assert shop.books() == {"retained": 1}


def test_a_request_waits_for_its_confirms_no_longer_than_it_may() -> None:
    with open_shop(CONFIRM_TIMEOUT=0.01) as shop:
        add_view(shop)
        shop.silence()
        began = time.monotonic()

        assert status_of(shop) == 200

        assert time.monotonic() - began < DEADLINE
        assert shop.books() == {"in_flight": 1}


def test_a_double_that_raises_disturbs_no_request(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        events_to_publish = ("something",)

        def enqueue_event(self, *args: Any, **kwargs: Any) -> None: ...

        def publish(self, timeout: float | None = None) -> None:
            raise RuntimeError("the double's bug")

        def clear_events_to_publish(self) -> None: ...

    add_view(shop)

    with shop.events.use_collector(Broken()):
        assert status_of(shop) == 200

    assert "Request teardown failed" in caplog.text
