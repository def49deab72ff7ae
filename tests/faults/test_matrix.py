"""Rows of the fault matrix in their short form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MISSING, require
from tests.faults.matrix import ON_CLUSTER, ROWS, in_tests, rest
from tests.faults.proxy import Proxy
from tests.faults.rig import MODES, OUTBOXES, Rig
from tests.faults.rows import Row
from tests.faults.state import Databases
from tests.rabbitmq import RabbitMQNode


@pytest.fixture
def rig(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> Iterator[Rig]:
    with Proxy(private_rabbitmq.port) as proxy, Databases() as databases:
        yield Rig(
            private_rabbitmq,
            proxy,
            databases=databases,
            folder=tmp_path,
            is_busy=True,
        )


@pytest.mark.parametrize(
    ("mode", "row"),
    [(mode, row) for mode in ("spool", *OUTBOXES) for row in in_tests(mode)],
    ids=str,
)
def test_with_another_backlog_promises_are_kept_under(
    mode: str, row: Row, rig: Rig
) -> None:
    rig.mode = mode
    assert broken(row, rig) == []


@pytest.mark.parametrize("row", in_tests("memory"), ids=str)
def test_promises_are_kept_under(row: Row, rig: Rig) -> None:
    assert broken(row, rig) == []


def test_each_row_is_run_here_or_by_the_command() -> None:
    here = [(row, mode) for mode in MODES for row in in_tests(mode)]
    rows = [row for row in ROWS.values() if row.number not in ON_CLUSTER]
    whole = [(row, mode) for row in rows for mode in MODES]
    both = [*here, *rest()]
    assert len(both) == len(set(both))
    assert set(both) == {(row, mode) for row, mode in whole if mode in row.modes}


def broken(row: Row, rig: Rig) -> list[str]:
    """Run the row, unless it can't be run here."""
    require(row.missing(rig.mode))
    if denied := row.denied():
        # Even with CI set, since CI may not run as root.
        pytest.skip(MISSING + denied)
    return row.run(rig, row.short).broken
