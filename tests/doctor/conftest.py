"""The app that the tests examine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doctor.support import Patient
from tests.rabbitmq import RabbitMQNode


@pytest.fixture
def patient(
    request: pytest.FixtureRequest,
    rabbitmq: RabbitMQNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Patient]:
    found = Patient(request, rabbitmq, tmp_path, monkeypatch)
    yield found
    found.close()
