"""A ledger for each test, and callers that wait."""

from __future__ import annotations

import pytest

from flask_eventcollector.delivery.entries import Waiter
from tests.parts import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def waiter() -> Waiter:
    return Waiter(patient=False)


@pytest.fixture
def patient() -> Waiter:
    return Waiter(patient=True)
