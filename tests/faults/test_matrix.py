"""Each row of the fault matrix in its short form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MISSING, require
from tests.faults.matrix import ROWS
from tests.faults.proxy import Proxy
from tests.faults.rig import Rig
from tests.faults.rows import Row
from tests.rabbitmq import RabbitMQNode

in_order = [ROWS[number] for number in sorted(ROWS)]
with_memory = [row for row in in_order if "memory" in row.modes]
#: Those in which the spool has most to do; `python -m tests.faults` runs all.
with_spool = [ROWS[number] for number in (3, 6, 10, 17, 26, 30, 31, 32, 34, 35, 36)]


@pytest.fixture
def rig(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> Iterator[Rig]:
    with Proxy(private_rabbitmq.port) as proxy:
        yield Rig(private_rabbitmq, proxy, folder=tmp_path)


@pytest.mark.parametrize("row", with_spool, ids=str)
def test_what_must_hold_with_the_spool_holds_under(row: Row, rig: Rig) -> None:
    rig.mode = "spool"
    assert broken(row, rig) == []


@pytest.mark.parametrize("row", with_memory, ids=str)
def test_what_must_hold_holds_under(row: Row, rig: Rig) -> None:
    assert broken(row, rig) == []


def broken(row: Row, rig: Rig) -> list[str]:
    """Run the row, unless it can't be run here."""
    require(row.missing)
    if denied := row.denied():
        # Not even under CI, which need not run as root.
        pytest.skip(MISSING + denied)
    return row.run(rig, row.short).broken
