"""What the dashboard's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flask_eventcollector.dashboard import overview

from .support import Desk, open_desk


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each overview is a new one."""
    monkeypatch.setattr(overview, "_SHOWN_FOR", 0.0)
    monkeypatch.setattr(overview, "_TIMES_AS_LONG", 0.0)


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A dashboard of an app whose backlog is in memory."""
    with open_desk() as desk:
        yield desk
