"""The kit for ``unittest``."""

from __future__ import annotations

import unittest
from typing import TYPE_CHECKING

from flask import Flask

from .capture import Captured
from .lookup import capture_app

if TYPE_CHECKING:
    _Base = unittest.TestCase
else:
    _Base = object


class CapturedEventsMixin(_Base):
    """Captures the events of each test of a ``unittest.TestCase``.

    ::

        class OrderTest(CapturedEventsMixin, unittest.TestCase):
            def create_app(self):
                return create_app({"TESTING": True})

            def test_order(self):
                self.app.test_client().post("/orders", json={"sku": "A1"})
                self.captured_events.assert_published("orders.created")

    A class with an ``app`` of its own by the time of ``super().setUp()`` needs no
    ``create_app()``; one that makes it later calls :meth:`capture_events`.
    """

    app: Flask
    #: Whether each test must assert on all that it has published. unittest doesn't say
    #: whether a test has failed already: then it may be reported twice.
    eventcollector_strict = False

    _captured: Captured | None = None

    def setUp(self) -> None:
        """Make the app, if need be, and begin to capture its events."""
        super().setUp()
        if not hasattr(self, "app") and hasattr(self, "create_app"):
            self.app = self.create_app()
        if hasattr(self, "app"):
            self.capture_events(self.app)

    def capture_events(self, app: Flask) -> Captured:
        """Capture the events of *app* until the end of the test."""
        captured = capture_app(app).__enter__()
        self.addCleanup(self._end_capture, captured)
        self._captured = captured
        return captured

    @property
    def captured_events(self) -> Captured:
        """What was captured; :raises RuntimeError: there is no app."""
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
