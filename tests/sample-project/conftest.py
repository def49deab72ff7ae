"""The app of the tests: one for all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bookshop import create_app, events
from flask import Flask
from flask.testing import FlaskClient


@pytest.fixture(scope="session")
def app() -> Iterator[Flask]:
    """Return the shop."""
    app = create_app(TESTING=True)
    yield app
    with app.app_context():
        events.close(timeout=5)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Return a visitor."""
    return app.test_client()
