"""How many events are in files that no process uses."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flask_eventcollector.stores.spool.event_counts import EventCounts
from flask_eventcollector.stores.spool.folder import claim_orphan
from flask_eventcollector.stores.spool.journal import PAGE_SIZE, Journal
from tests.spool.support import failing, leave, rows

#: Writes more events to a file, and ends without closing it.
KILLED = """
import os, sys; from pathlib import Path
from flask_eventcollector.stores.spool.journal import Journal
from tests.spool.support import rows
Journal.open(Path(sys.argv[1])).write(rows("de", first=10))
os._exit(0)
"""


@pytest.fixture
def counts() -> EventCounts:
    return EventCounts()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return leave(tmp_path / "spool", "abc")


def test_each_file_is_counted(counts: EventCounts, path: Path) -> None:
    other = leave(path.parent, "d")
    counts.update([path, other])
    assert (counts.of(path), counts.of(other), counts.of(path, other)) == (3, 1, 4)
    assert counts.known([path, other]) == 4


def test_nothing_is_written_beside_a_file(counts: EventCounts, path: Path) -> None:
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    counts.update([path])
    after = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    assert after.keys() == before.keys()
    assert after[path.name] == before[path.name]


def test_what_a_killed_process_has_written_counts(
    counts: EventCounts, path: Path
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=True, timeout=60)
    assert Path(f"{path}-wal").stat().st_size
    counts.update([path])
    assert counts.of(path) == 5


def test_a_file_is_opened_again_only_once_it_has_changed(
    counts: EventCounts, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts.update([path])
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "open", failing(AssertionError("it was opened")))
        counts.update([path])
    assert counts.of(path) == 3

    journal = Journal.open(path)
    journal.write(rows("d", first=10))
    journal.close()
    # Even if both were in one tick of the clock.
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    counts.update([path])
    assert counts.of(path) == 4


def test_a_file_that_cannot_be_read_is_unknown_until_it_can(
    counts: EventCounts, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = leave(path.parent, "d")
    with monkeypatch.context() as patch:
        busy = sqlite3.OperationalError("database is locked")
        patch.setattr(Journal, "targets", failing(busy))
        counts.update([path])
    counts.update([other])
    assert (counts.of(path), counts.of(path, other)) == (None, None)
    assert counts.known([path, other]) == 1
    counts.update([path])
    assert counts.of(path) == 3


def test_a_damaged_file_is_unknown(counts: EventCounts, path: Path) -> None:
    path.write_bytes(b"?" * PAGE_SIZE + path.read_bytes()[PAGE_SIZE:])
    counts.update([path])
    assert counts.of(path) is None


def test_a_file_in_use_is_unknown_and_not_opened(
    counts: EventCounts, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claim_orphan(path)
    assert claim is not None
    monkeypatch.setattr(Journal, "open", failing(AssertionError("it was opened")))
    counts.update([path])
    claim.release()
    assert counts.of(path) is None


def test_a_file_that_was_never_written_has_no_events(
    counts: EventCounts, path: Path
) -> None:
    path.write_bytes(b"")
    counts.update([path])
    assert counts.of(path) == 0


def test_what_was_removed_is_forgotten(counts: EventCounts, path: Path) -> None:
    counts.update([path])
    path.unlink()
    counts.update([])
    assert (counts.of(path), counts.known([path])) == (None, 0)
