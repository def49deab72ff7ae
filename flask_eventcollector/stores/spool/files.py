"""Writes to a spool file that this process has claimed, and closes it."""

from __future__ import annotations

import sqlite3

from ...delivery.disk_index import Write
from .folder import Claim
from .journal import Journal
from .rows import row_of


def write_rows(journal: Journal, write: Write) -> None:
    """Write and erase the rows of *write* in one transaction.

    Raises what SQLite raises; then nothing has changed.
    """
    rows = [row_of(entry, number) for entry, number in write.written]
    if rows or write.erased:
        journal.write(rows, write.erased)


def close(claim: Claim, journal: Journal) -> None:
    """Leave a file to the next process, or remove it if it has nothing to deliver."""
    try:
        empty = journal.is_empty()
    except sqlite3.Error:
        empty = False
    journal.close()
    if empty:
        claim.remove()
    else:
        claim.release()
