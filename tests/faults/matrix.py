"""All rows, by number: importing a file of rows declares them."""

from tests.faults import (
    rows_broker,
    rows_exits,
    rows_forks,
    rows_network,
    rows_overflow,
    rows_refusals,
    rows_spool,
    rows_workers,
)
from tests.faults.rows import ROWS

#: Rows that need no rig of processes, and the tests that hold them.
ELSEWHERE = {
    20: "tests/test_encoding.py, tests/test_requests.py",
}

__all__ = [
    "ELSEWHERE",
    "ROWS",
    "rows_broker",
    "rows_exits",
    "rows_forks",
    "rows_network",
    "rows_overflow",
    "rows_refusals",
    "rows_spool",
    "rows_workers",
]
