"""The databases on which the outbox's tests run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outbox.support import Place

KINDS = ["sqlite", "postgresql", "mariadb"]


@pytest.fixture(scope="session")
def places() -> Iterator[dict[str, Place]]:
    """The tables that the tests share, by the kind of database."""
    places: dict[str, Place] = {}
    yield places
    for place in places.values():
        place.close()


@pytest.fixture(params=KINDS)
def outbox_url(
    request: pytest.FixtureRequest,
    places: dict[str, Place],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """A database of each kind, shared by the tests."""
    kind = request.param
    if kind not in places:
        if kind == "sqlite":
            url = _sqlite(tmp_path_factory.mktemp("outbox"))
        else:
            url = request.getfixturevalue(kind).new_database()
        places[kind] = Place(url)
    return places[kind].url


def _sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'test.sqlite3'}"


@pytest.fixture
def place(outbox_url: str, places: dict[str, Place]) -> Iterator[Place]:
    """An empty table in a database of each kind, which the test leaves as it is."""
    (place,) = (place for place in places.values() if place.url == outbox_url)
    yield place
    place.clear()


@pytest.fixture
def new_place(outbox_url: str) -> Iterator[Place]:
    """A new table in a database of each kind, which the test may alter."""
    place = Place(outbox_url)
    yield place
    place.close()
