"""The pytest plugin with the fixture ``captured_events``.

pytest loads it in every environment that has the package, even for projects that do not
use Flask. So the test kit is imported only when a test uses it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .testing import Captured

_STRICT = "eventcollector_strict"
_IGNORE = "eventcollector_ignore"
_MARKER = "ignore_events"
_WATCH = "_watched_events"
_NO_APP = (
    "captured_events captures what the fixture 'app' publishes, but there is none:"
    " define one that returns your Flask app, or write"
    " 'with events.capture() as captured:'"
)

_captured_key: pytest.StashKey[Captured] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        _STRICT,
        "Each test must assert on all events that it publishes.",
        type="bool",
        default=False,
    )
    parser.addini(
        _IGNORE,
        "Queues, or globs, of events that no test has to assert on.",
        type="args",
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(*queues): in strict mode, the test need not assert on events for"
        " these queues, or globs.",
    )


@pytest.fixture
def captured_events(request: pytest.FixtureRequest) -> Iterator[Captured]:
    """Capture the events of the fixture ``app`` during the test."""
    from .testing import capture_app

    try:
        app = request.getfixturevalue("app")
    except pytest.FixtureLookupError as error:
        if error.argname != "app":
            raise
        raise _failed(_NO_APP) from None
    try:
        captured = capture_app(app, "captured_events")
    except (TypeError, RuntimeError) as error:
        raise _failed(f"captured_events: {error}") from None
    with captured:
        _ignore(captured, request.node)
        request.node.stash[_captured_key] = captured
        yield captured


def _ignore(captured: Captured, test: pytest.Item) -> None:
    """Leave out the events that the settings or the test's markers name."""
    from .testing.matching import checked_queues

    if queues := test.config.getini(_IGNORE):
        captured.ignore(*queues)
    try:
        for marker in test.iter_markers(_MARKER):
            # It has no keywords: a misplaced one must not pass unnoticed.
            queues = () if marker.kwargs else marker.args
            captured.ignore(*checked_queues(queues, f"@pytest.mark.{_MARKER}"))
    except (TypeError, ValueError) as error:
        raise _failed(str(error)) from None


@pytest.fixture(name=_WATCH)
def _watch(request: pytest.FixtureRequest) -> None:
    """In strict mode, capture for a test that doesn't, if its app has a collector."""
    from .testing.lookup import has_collector

    if has_collector(request.getfixturevalue("app")):
        request.getfixturevalue("captured_events")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if not config.getini(_STRICT):
        return
    for item in items:
        names: list[str] = getattr(item, "fixturenames", [])
        if "app" in names and not {"captured_events", _WATCH} & set(names):
            names.append(_WATCH)


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """In strict mode, fail a test that made no assertion about some event.

    Not called if the test itself has failed.
    """
    if _captured_key in item.stash and item.config.getini(_STRICT):
        _check_others(item.stash[_captured_key])


def _check_others(captured: Captured) -> None:
    try:
        captured.assert_no_others()
    except AssertionError as error:
        raise _failed(f"{_STRICT}: {error}") from None


def _failed(message: str) -> BaseException:
    """A failure without a traceback: no line of code is at fault, one is missing."""
    return pytest.fail.Exception(message, pytrace=False)


def pytest_assertrepr_compare(op: str, left: Any, right: Any) -> list[str] | None:
    # Without the kit there are no captured events.
    if "flask_eventcollector.testing" not in sys.modules:
        return None
    from .testing.comparing import explain_comparison

    return explain_comparison(op, left, right)
