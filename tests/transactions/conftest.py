"""An app on the memory broker, and a database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

# Without SQLAlchemy, nothing here can be collected.
pytest.importorskip("sqlalchemy")

from sqlalchemy import Engine

from tests.helpers import Shop, open_shop
from tests.transactions.support import open_engine


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


@pytest.fixture
def engine() -> Iterator[Engine]:
    with open_engine("sqlite://") as engine:
        yield engine
