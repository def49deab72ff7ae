"""What the tests of several commands use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result

from tests.cli.support import Run, runner
from tests.helpers import Shop, open_shop


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def shop(folder: Path) -> Iterator[Shop]:
    settings = {"BROKER_URL": "memory://", "SPOOL_DIR": str(folder)}
    with open_shop(BACKLOG="spool", TESTING_BROKER=True, **settings) as shop:
        yield shop


@pytest.fixture
def run(shop: Shop) -> Run:
    def invoke(*args: str, input: str = "") -> Result:
        result = runner(shop).invoke(args=["events", *map(str, args)], input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke
