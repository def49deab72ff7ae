"""Each row of the fault matrix in its short form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.faults.matrix import ROWS
from tests.faults.proxy import Proxy
from tests.faults.rig import Rig
from tests.faults.rows import Row
from tests.rabbitmq import RabbitMQNode

in_order = [ROWS[number] for number in sorted(ROWS)]


@pytest.fixture
def rig(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> Iterator[Rig]:
    with Proxy(private_rabbitmq.port) as proxy:
        yield Rig(private_rabbitmq, proxy, folder=tmp_path)


#: With the spool, those in which it has most to do; `python -m tests.faults` runs all.
WITH_SPOOL = [ROWS[number] for number in (3, 6, 10, 17, 26, 30, 31, 32, 35, 36)]


@pytest.mark.parametrize("row", WITH_SPOOL, ids=str)
def test_what_must_hold_with_the_spool_holds_under(row: Row, rig: Rig) -> None:
    require(row.missing)
    rig.mode = "spool"
    assert row.run(rig, row.short).broken == []


@pytest.mark.parametrize("row", in_order, ids=str)
def test_what_must_hold_holds_under(row: Row, rig: Rig) -> None:
    require(row.missing)
    assert row.run(rig, row.short).broken == []
