"""Lets the rows of a file follow the events that they tell of."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ..entries import Entry
from ..ledger import Ledger
from .folder import Claim
from .journal import Journal
from .rows import row_of


def update(ledger: Ledger, journal: Journal, new: Sequence[Entry] = ()) -> list[Entry]:
    """Write *new* rows, and those whose events are dead or alive again; erase others.

    Returns the entries whose rows were there and have followed. Raises what SQLite
    raises; then nothing has changed.
    """
    outdated = ledger.take_outdated(journal)
    living = dict.fromkeys(e for e in (*new, *outdated) if e.state.alive)
    rows = [row_of(e, e.row.number) for e in living if e.row is not None]
    ended = [e.row.number for e in outdated if e.row and not e.state.alive]
    try:
        if rows or ended:
            journal.write(rows, ended)
    except BaseException:
        ledger.put_back(journal, outdated)
        raise
    return outdated


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
