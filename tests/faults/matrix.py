"""All rows, by number: importing a file of rows declares them."""

from __future__ import annotations

from tests.faults import (
    rows_broker,
    rows_cluster,
    rows_exits,
    rows_forks,
    rows_isolation,
    rows_network,
    rows_outbox,
    rows_overflow,
    rows_refusals,
    rows_spool,
    rows_workers,
)
from tests.faults.rig import MODES, OUTBOXES
from tests.faults.rows import ROWS, Row

#: Rows that need no rig of processes, and where they are tested.
ELSEWHERE = {
    20: "tests/test_encoding.py, tests/test_requests.py",
}

#: Inherently slow rows: they wait for a slow network, or use many kinds of workers.
#: With the memory backlog, only `python -m tests.faults` runs them.
SLOW = (
    *(1, 3, 8, 12, 13, 14, 21, 22, 24, 27, 28, 29, 31, 32, 33, 35, 36, 40),
    *(53, 54, 55, 57),
)
#: The same goes for rows that the tests run with the spool, which promises more.
IN_SPOOL = (30,)
#: Rows on three nodes. They take minutes, so `.ci/run` omits them, too.
ON_CLUSTER = (41, 42, 43, 44, 45, 46)
#: The rows in which the spool is busiest, but for those that take longest.
BUSY_SPOOL = (6, 10, 17, 30)


def in_tests(mode: str) -> list[Row]:
    """The rows that pytest runs in this mode, by number."""
    if mode == "spool":
        return [ROWS[number] for number in BUSY_SPOOL]
    if mode in OUTBOXES:
        return []
    omitted = (*SLOW, *IN_SPOOL, *ON_CLUSTER)
    return [row for row in _all_of(mode) if row.number not in omitted]


def rest() -> list[tuple[Row, str]]:
    """What pytest omits, and `.ci/run` runs afterwards: rows with their modes."""
    return [
        (row, mode)
        for mode in MODES
        for row in _all_of(mode)
        if row not in in_tests(mode) and row.number not in ON_CLUSTER
    ]


def _all_of(mode: str) -> list[Row]:
    return [ROWS[number] for number in sorted(ROWS) if mode in ROWS[number].modes]


__all__ = [
    "ELSEWHERE",
    "ROWS",
    "in_tests",
    "rest",
    "rows_broker",
    "rows_cluster",
    "rows_exits",
    "rows_forks",
    "rows_isolation",
    "rows_network",
    "rows_outbox",
    "rows_overflow",
    "rows_refusals",
    "rows_spool",
    "rows_workers",
]
