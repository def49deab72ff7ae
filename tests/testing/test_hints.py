"""What a failed assertion suggests can be written as it stands, and works."""

from __future__ import annotations

import re
import unittest
from collections.abc import Callable, Iterator

import pytest

from flask_eventcollector import Outcome
from flask_eventcollector.delivery.entries import Entry, Settlement
from flask_eventcollector.testing import Captured, CapturedEventsMixin
from tests.helpers import Shop

from .shop_app import OpenShop, failure, make_shop, place, publish

Assertion = Callable[[], object]


@pytest.fixture
def captured_events(shop: Shop) -> Iterator[Captured]:
    """The capture as the fixture of a user's test names it."""
    from flask_eventcollector.testing import capture_app

    with capture_app(shop, "captured_events") as captured:
        yield captured


def suggested(message: str) -> list[str]:
    """The code in the hint of *message*."""
    hint = message[message.index("Hint: ") :]
    return re.findall("`([^`]+)`", hint)


def follow(code: str, shop: Shop, **names: Captured) -> None:
    """Write *code* where the test stands."""
    exec(code, {"events": shop.events, "pytest": pytest, **names})


def test_to_an_event_of_a_broker_that_is_down(
    shop: Shop, captured_events: Captured
) -> None:
    captured_events.broker_down()
    publish(shop, 1)

    (code,) = suggested(failure(captured_events.assert_published, "q"))

    assert code == "captured_events.broker_up(); captured_events.flush()"
    follow(code, shop, captured_events=captured_events)
    captured_events.assert_published("q", 1, times=1)


@pytest.mark.parametrize("outcome", ["nacked", "returned", "unknown"])
def test_to_an_event_that_was_refused(
    shop: Shop, captured_events: Captured, outcome: str
) -> None:
    captured_events.fail_next(outcome=outcome)  # type: ignore[arg-type]
    publish(shop, 1)

    (code,) = suggested(failure(captured_events.assert_published, "q"))

    assert code == "captured_events.flush()"
    follow(code, shop, captured_events=captured_events)
    captured_events.assert_published("q", 1, times=1)


@pytest.mark.parametrize("take_down", ["go_down", "block"])
def test_to_an_event_of_a_broker_that_a_test_took_down_itself(
    shop: Shop, captured: Captured, take_down: str
) -> None:
    getattr(shop.faults, take_down)()
    publish(shop, 1)

    (code,) = suggested(failure(captured.assert_published, "q"))
    follow(code, shop, captured=captured)

    captured.assert_published("q", 1, times=1)
    shop.faults.come_up()


def test_to_a_dead_event(open_shop: OpenShop) -> None:
    shop = open_shop(DEAD_AFTER=0)
    with shop.events.capture() as captured:
        captured.fail_next(outcome="returned")
        publish(shop, 1)

        (code,) = suggested(failure(captured.assert_published, "q"))
        follow(code, shop, captured=captured)

        captured.assert_published("q", 1, times=1)


def test_to_an_event_that_is_in_flight(
    shop: Shop, captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, taken = shop.broker.relay, list[Entry]()
    monkeypatch.setattr(shop.broker, "wake", lambda: taken.extend(relay.take(9)))
    shop.enqueue(1)
    shop.events.publish(timeout=0)

    (code,) = suggested(failure(captured.assert_published, "q"))

    # The confirm comes while the test waits for it.
    confirms = [Settlement(entry, Outcome.CONFIRMED) for entry in taken]
    monkeypatch.setattr(shop.broker, "wake", lambda: relay.settle(confirms))
    follow(code, shop, captured=captured)
    captured.assert_published("q", 1, times=1)


def test_to_an_event_outside_of_blocks(shop: Shop, captured: Captured) -> None:
    shop.enqueue(1)

    block, call = suggested(failure(captured.assert_published, "q"))

    follow(f"{block}\n events.enqueue_event(2, 'q')", shop)
    captured.assert_published("q", 2, times=1)
    follow(call, shop)
    captured.assert_published("q", 1, times=1)


def test_to_an_event_in_a_request(shop: Shop, captured: Captured) -> None:
    with shop.test_request_context():
        shop.enqueue(1)

        _, block = suggested(failure(captured.assert_published, "q"))

        follow(f"{block}\n events.enqueue_event(2, 'q')", shop)
        captured.assert_published("q", 2, times=1)


def test_to_an_event_in_a_block(shop: Shop, captured: Captured) -> None:
    with shop.events.auto_publish():
        shop.enqueue(1)

        (code,) = suggested(failure(captured.assert_published, "q"))

        follow(code, shop)
        captured.assert_published("q", 1, times=1)


@pytest.mark.parametrize("chosen", [0, 1], ids=["assert", "ignore"])
def test_to_events_without_an_assertion(
    shop: Shop, captured_events: Captured, chosen: int
) -> None:
    place(shop)
    captured_events.assert_published("orders.created")

    codes = suggested(failure(captured_events.assert_no_others))

    follow(codes[chosen], shop, captured_events=captured_events)
    captured_events.assert_no_others()
    assert codes[2] == "@pytest.mark.ignore_events('mail.send')"


def test_after_the_block_a_hint_says_that_it_is_too_late(shop: Shop) -> None:
    with shop.events.capture() as captured:
        shop.faults.go_down()
        publish(shop, 1)

    assert (
        "to retry it, call `captured.flush()` before the end of the capture's block."
    ) in failure(captured.assert_published, "q")
    shop.faults.come_up()


def test_in_unittest_a_hint_names_the_attribute() -> None:
    class Case(CapturedEventsMixin, unittest.TestCase):
        app: Shop

        def create_app(self) -> Shop:
            return make_shop()

        def runTest(self) -> None:
            self.captured_events.broker_down()
            publish(self.app, 1)
            message = failure(self.captured_events.assert_published, "q")
            (code,) = suggested(message)
            exec(code, {"self": self})
            self.captured_events.assert_published("q", 1, times=1)
            self.app.events.close()

    result = unittest.TestResult()
    Case().run(result)
    assert (result.errors, result.failures) == ([], [])


def test_without_any_event_there_is_nothing_but_that_to_say(
    shop: Shop, captured: Captured
) -> None:
    assert failure(captured.assert_published, "q") == (
        "expected an event published to 'q', but found none.\n\nNothing was enqueued."
    )
    assert failure(captured.assert_retained, "q").endswith("Nothing was enqueued.")
    assert failure(captured.assert_sequence, ["q"]).endswith("Nothing was enqueued.")

    place(shop, path="/refused")
    assert failure(captured.assert_published, "q").endswith("Nothing was published.")


# ignore()


def test_events_that_are_ignored_need_no_assertion(
    shop: Shop, captured: Captured
) -> None:
    captured.ignore("mail.*", "audit")
    place(shop)

    assert "but 1 was not asserted on" in failure(captured.assert_no_others)
    captured.ignore("orders.created")
    captured.assert_no_others()
    captured.assert_published("mail.send", times=1)


def test_what_a_block_ignores_an_outer_capture_ignores_too(
    shop: Shop, captured: Captured
) -> None:
    with shop.events.capture() as inner:
        inner.ignore("*")
        place(shop)

    inner.assert_no_others()
    captured.assert_no_others()


def test_other_apps_are_not_concerned(shop: Shop, captured: Captured) -> None:
    other = make_shop()
    with other.app_context(), other.events.capture() as others:
        others.ignore("*")
    other.events.close()
    publish(shop, 1)

    assert "but 1 was not asserted on" in failure(captured.assert_no_others)


@pytest.mark.parametrize(
    ("queues", "error", "message"),
    [
        ((), TypeError, "expects a queue or a glob, such as captured.ignore('auth.*')"),
        (
            (["auth.*"],),
            TypeError,
            "expects queues as str, not of type list: write"
            " captured.ignore('auth.*', 'audit.*')",
        ),
        (("auth.*", ""), ValueError, "got an empty queue: pass a name, or '*'"),
    ],
)
def test_a_bad_pattern_is_refused_whole(
    shop: Shop,
    captured: Captured,
    queues: tuple[str, ...],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=re.escape(f"captured.ignore() {message}")):
        captured.ignore(*queues)

    publish(shop, 1, queue="auth.login")
    assert "but 1 was not asserted on" in failure(captured.assert_no_others)
