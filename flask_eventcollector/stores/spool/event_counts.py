"""Counts the events in files that no process uses."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from .folder import ForeignFile, can_hold_events, claim_orphan
from .journal import SUFFIXES, Journal, NewerVersion
from .recovery.wal import check_wal

_WAL = SUFFIXES[0]


class _Count(NamedTuple):
    events: int
    #: Differs once the content of the file does.
    version: object


class EventCounts:
    """How many events some files have, as far as these can be read.

    A file is not opened again until it has changed.
    """

    def __init__(self) -> None:
        self._counts: dict[Path, _Count] = {}

    def update(self, files: Iterable[Path]) -> None:
        """Count the events in *files*, and forget all others; the disk may block."""
        counts = ((path, self._count(path)) for path in files)
        self._counts = {path: count for path, count in counts if count is not None}

    def of(self, *files: Path) -> int | None:
        """How many events are in *files*; ``None``: in one of them, it is unknown."""
        counts = self._counts
        if not all(path in counts for path in files):
            return None
        return self.known(files)

    def known(self, files: Iterable[Path]) -> int:
        """How many events are known to be in *files*."""
        counts = self._counts
        return sum(counts[path].events for path in files if path in counts)

    def _count(self, path: Path) -> _Count | None:
        version, known = _version_of(path), self._counts.get(path)
        if known is not None and known.version == version:
            return known
        events = _events_in(path)
        return None if events is None else _Count(events, version)


def _version_of(path: Path) -> list[tuple[int, int]]:
    abouts = []
    for name in (path, f"{path}{_WAL}"):
        with suppress(OSError):
            about = os.lstat(name)
            abouts.append((about.st_size, about.st_mtime_ns))
    return abouts


def _events_in(path: Path) -> int | None:
    """How many events *path* has; ``None``: a process uses it, or it can't be read."""
    claim = claim_orphan(path)
    if claim is None:
        return None
    try:
        if not can_hold_events(path):
            return 0
        check_wal(path)
        has_wal = os.path.lexists(f"{path}{_WAL}")
        opened = Journal.open(path, read_only=True, immutable=not has_wal)
        with closing(opened) as journal:
            return sum(journal.targets().values())
    except (OSError, sqlite3.Error, ForeignFile, NewerVersion):
        return None
    finally:
        claim.release()
