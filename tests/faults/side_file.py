"""The files of `flask_eventcollector.verifying.side_file`, and two more of the rig.

These list the spool files that the library reported as quarantined, and the events of
units of work outside of requests that have ended.
"""

from __future__ import annotations

from pathlib import Path

from flask_eventcollector.verifying.side_file import (
    confirmed_in,
    dropped_in,
    note,
    read,
)

__all__ = [
    "confirmed_in",
    "done_in",
    "dropped_in",
    "note",
    "quarantined_in",
    "read",
]


def quarantined_in(path: Path | str) -> Path:
    """Where files are noted that were reported as quarantined."""
    return Path(f"{path}.quarantined")


def done_in(path: Path | str) -> Path:
    """Where events are noted whose unit of work has succeeded."""
    return Path(f"{path}.done")
