"""Orders once more, for friends of ``unittest``."""

from __future__ import annotations

import unittest

from bookshop import create_app
from flask import Flask

from flask_eventcollector.testing import CapturedEventsMixin


class OrderTest(CapturedEventsMixin, unittest.TestCase):
    """Each test has an app of its own."""

    eventcollector_strict = True

    def create_app(self) -> Flask:
        return create_app(TESTING=True)

    def test_an_order_is_published(self) -> None:
        self.app.test_client().post("/orders", json={"book": "dune"})

        self.captured_events.assert_published("orders.created", {"book": "dune"})
        self.captured_events.assert_published("mail.send")
