"""The mixin for ``unittest.TestCase``."""

from __future__ import annotations

import unittest
from collections.abc import Iterator

import pytest
from flask import Flask

from flask_eventcollector.testing import CapturedEventsMixin, event
from tests.helpers import SIGNALS, Shop

from .shop_app import make_shop, place


class ShopCase(CapturedEventsMixin, unittest.TestCase):
    """A user's tests, which pytest does not collect from here."""

    __test__ = False
    app: Shop

    def create_app(self) -> Shop:
        return make_shop()

    def tearDown(self) -> None:
        self.app.events.close(1)

    def test_published(self) -> None:
        place(self.app)
        self.captured_events.assert_published("orders.created", {"sku": "A1"})

    def test_equal(self) -> None:
        place(self.app)
        expected = [event("orders.created"), event("mail.send")]
        self.assertEqual(self.captured_events.published, expected)  # noqa: PT009

    def test_fails(self) -> None:
        place(self.app)
        self.captured_events.assert_published("orders.created", {"sku": "B2"})

    def test_passes_over_an_event(self) -> None:
        place(self.app)
        self.captured_events.assert_published("orders.created")


class StrictCase(ShopCase):
    eventcollector_strict = True


class StrictCaseThatIgnoresMails(StrictCase):
    eventcollector_ignore = ("mail.*",)


class CaseThatIgnoresAStr(ShopCase):
    eventcollector_ignore = "mail.*"


class CaseWithItsOwnApp(ShopCase):
    def setUp(self) -> None:
        self.app = make_shop()
        super().setUp()


class CaseThatMakesItsAppLater(CapturedEventsMixin, unittest.TestCase):
    __test__ = False

    def setUp(self) -> None:
        super().setUp()
        self.shop = make_shop()
        self.capture_events(self.shop)

    def test_published(self) -> None:
        place(self.shop)
        self.captured_events.assert_published("orders.created", {"sku": "A1"})
        self.shop.events.close(1)


class CaseWithoutAnApp(CapturedEventsMixin, unittest.TestCase):
    __test__ = False

    def test_published(self) -> None:
        self.captured_events.assert_nothing_published()


class CaseWithoutEvents(CapturedEventsMixin, unittest.TestCase):
    __test__ = False

    def create_app(self) -> Flask:
        return Flask("plain")

    def test_published(self) -> None:
        """Not reached."""


@pytest.fixture(autouse=True)
def _all_is_restored() -> Iterator[None]:
    before = _receivers()
    yield
    assert _receivers() <= before


def _receivers() -> set[tuple[str, object]]:
    return {(name, key) for name, signal in SIGNALS.items() for key in signal.receivers}


def run(case: type[unittest.TestCase], test: str = "test_published") -> str:
    """The problem of the test; ``""``: none."""
    result = unittest.TestResult()
    case(test).run(result)
    assert result.testsRun == 1
    (*_, problem) = [("", ""), *result.errors, *result.failures]
    return str(problem[1]).strip().rpartition("\n\n")[0] or str(problem[1])


@pytest.mark.parametrize(
    "case", [ShopCase, CaseWithItsOwnApp, CaseThatMakesItsAppLater]
)
def test_each_test_has_its_captured_events(case: type[unittest.TestCase]) -> None:
    assert run(case) == ""


def test_lists_can_be_compared() -> None:
    assert run(ShopCase, "test_equal") == ""


def test_what_does_not_hold_is_a_failure_not_an_error() -> None:
    result = unittest.TestResult()
    ShopCase("test_fails").run(result)

    assert result.errors == []
    ((_, text),) = result.failures
    assert "payload['sku']: expected 'B2', found 'A1'" in text


def test_only_in_strict_mode_each_event_must_be_asserted_on() -> None:
    result = unittest.TestResult()
    StrictCase("test_passes_over_an_event").run(result)

    ((_, text),) = result.failures
    assert "expected no others to be published, but 1 was not asserted on:" in text
    assert run(ShopCase, "test_passes_over_an_event") == ""


def test_a_class_may_ignore_queues_in_strict_mode() -> None:
    assert run(StrictCaseThatIgnoresMails, "test_passes_over_an_event") == ""


def test_a_str_is_no_list_of_queues() -> None:
    assert (
        "TypeError: eventcollector_ignore must be a list of queues, not a str: write"
        " eventcollector_ignore = ['mail.*']"
    ) in run(CaseThatIgnoresAStr)


def test_without_an_app_it_names_what_it_needs() -> None:
    assert (
        "RuntimeError: there is no app to capture events of: define create_app(), or"
        " call self.capture_events(app) in setUp()"
    ) in run(CaseWithoutAnApp)


def test_an_app_without_events_gets_a_clear_error() -> None:
    assert "RuntimeError: the app 'plain' has no EventCollector" in run(
        CaseWithoutEvents
    )
