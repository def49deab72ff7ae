"""A separate shop for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import create_app
from example_app.models import db
from example_app.publishing import events
from flask_eventcollector.transactions.bound_sessions import BoundSessions

from .support import database_uri, script_client


class OpenShop(Protocol):
    """Opens a shop and closes it at the end of the block."""

    def __call__(self, **config: Any) -> AbstractContextManager[Flask]: ...


@pytest.fixture
def open_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenShop:
    """Open a shop with the given settings."""
    # A shop binds its session for all shops of its process, with an outbox or without.
    monkeypatch.setattr(events, "_sessions", BoundSessions())

    @contextmanager
    def opened(**config: Any) -> Iterator[Flask]:
        defaults = {
            "TESTING": True,
            "PROPAGATE_EXCEPTIONS": False,
            "SQLALCHEMY_DATABASE_URI": database_uri(tmp_path),
            "EVENTCOLLECTOR_BROKER_URL": "memory://",
        }
        app = create_app(defaults | config)
        yield app
        with app.app_context():
            events.close(timeout=0)
            db.engine.dispose()

    return opened


@pytest.fixture
def shop(open_shop: OpenShop) -> Iterator[Flask]:
    """Return a shop on the embedded broker."""
    with open_shop() as app:
        yield app


@pytest.fixture
def app(shop: Flask) -> Flask:
    """Return the shop, for `captured_events`."""
    return shop


@pytest.fixture
def visitor(shop: Flask) -> FlaskClient:
    """Return a client that requests JSON, like the page's script."""
    return script_client(shop)
