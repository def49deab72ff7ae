"""Lets the rows of a file follow the events that they tell of."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from ...delivery.entries import Entry, State
from ...delivery.ledger import Ledger
from .folder import Claim
from .journal import Journal
from .rows import row_of


def update(
    ledger: Ledger, journal: Journal, new: Iterable[Entry] = ()
) -> list[tuple[Entry, State]]:
    """Write *new* rows, and those whose events are dead or alive again; erase others.

    Returns the entries whose rows were there, each with the state that its row has
    followed. Raises what SQLite raises; then nothing has changed.
    """
    outdated = ledger.take_outdated(journal)
    # One that ends during the write keeps its row, and comes again.
    states = {entry: entry.state for entry in (*new, *outdated)}
    rows = [row_of(e, e.row.number) for e, s in states.items() if s.alive and e.row]
    ended = [e.row.number for e in outdated if not states[e].alive and e.row]
    try:
        if rows or ended:
            journal.write(rows, ended)
    except BaseException:
        ledger.put_back(outdated)
        raise
    return [(entry, states[entry]) for entry in outdated]


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
