"""The kit for ``unittest``."""

from __future__ import annotations

import unittest
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flask import Flask

from .capture import Captured
from .lookup import capture_app

if TYPE_CHECKING:
    _Base = unittest.TestCase
else:
    _Base = object


class CapturedEventsMixin(_Base):
    """Captures the events of each test in a ``unittest.TestCase``. ::

        class OrderTest(CapturedEventsMixin, unittest.TestCase):
            def create_app(self):
                return create_app({"TESTING": True})

            def test_order(self):
                self.app.test_client().post("/orders", json={"sku": "A1"})
                self.captured_events.assert_published("orders.created")

    A class that sets ``self.app`` before ``super().setUp()`` needs no ``create_app()``.
    A class that sets it later must call :meth:`capture_events`.
    """

    app: Flask
    #: Whether each test must assert on all events that it publishes. unittest does not
    #: tell whether a test has failed already, so a failure may be reported twice.
    eventcollector_strict = False
    #: The queues, or globs, of events that need no assertion in strict mode.
    eventcollector_ignore: Sequence[str] = ()

    _captured: Captured | None = None

    def setUp(self) -> None:
        """Create the app if necessary, and start to capture its events."""
        super().setUp()
        if not hasattr(self, "app") and hasattr(self, "create_app"):
            self.app = self.create_app()
        if hasattr(self, "app"):
            self.capture_events(self.app)

    def capture_events(self, app: Flask) -> Captured:
        """Capture the events of *app* until the end of the test.

        :param app: a Flask app with an event collector.
        :returns: the capture, which is also :attr:`captured_events`.
        :raises TypeError: *app* is not a Flask app, or :attr:`eventcollector_ignore` is
            not a list of str.
        :raises RuntimeError: *app* has no event collector.
        """
        captured = capture_app(app, "self.captured_events").__enter__()
        self.addCleanup(self._end_capture, captured)
        if self.eventcollector_ignore:
            captured.ignore(*_listed(self.eventcollector_ignore))
        self._captured = captured
        return captured

    @property
    def captured_events(self) -> Captured:
        """The current test's capture.

        :raises RuntimeError: there is no app.
        """
        if self._captured is None:
            raise RuntimeError(
                "there is no app to capture events of: define create_app(), or call"
                " self.capture_events(app) in setUp()"
            )
        return self._captured

    def _end_capture(self, captured: Captured) -> None:
        captured.__exit__(None, None, None)
        if self.eventcollector_strict:
            captured.assert_no_others()


def _listed(queues: Sequence[str]) -> Sequence[str]:
    if isinstance(queues, str):
        raise TypeError(
            "eventcollector_ignore must be a list of queues, not a str: write"
            f" eventcollector_ignore = [{queues!r}]"
        )
    return queues
