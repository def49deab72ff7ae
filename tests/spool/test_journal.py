"""One spool file: events as rows of an SQLite table."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector.events import Target
from flask_eventcollector.stores.spool.journal import (
    PAGE_SIZE,
    Journal,
    NewerVersion,
    is_damage,
    was_begun,
)
from flask_eventcollector.stores.spool.rows import read_row
from tests.spool.support import rows

Q = Target("", "q")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal.create(path)
    yield journal
    journal.close()


def payloads(found: list[tuple[Any, ...]]) -> list[Any]:
    return [read_row(row).event.payload for row in found]


def test_only_its_owner_may_read_it(journal: Journal, path: Path) -> None:
    journal.write(rows("abc"))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_file_that_is_there_is_not_taken_for_a_new_one(path: Path) -> None:
    path.touch()
    with pytest.raises(FileExistsError):
        Journal.create(path)


def test_rows_come_back_by_target_and_in_order(journal: Journal) -> None:
    journal.write([*rows("ac", first=1), *rows("x", first=3, queue="other")])
    journal.write(rows("d", first=4))
    assert payloads(journal.rows_of(Q, 0, 9, 999)) == ["a", "c", "d"]
    assert journal.targets() == {Q: 3, Target("", "other"): 1}


def test_a_page_begins_behind_the_last(journal: Journal) -> None:
    journal.write(rows("abcd", first=1))
    assert payloads(journal.rows_of(Q, 0, 2, 999)) == ["a", "b"]
    assert payloads(journal.rows_of(Q, 2, 2, 999)) == ["c", "d"]


def test_a_page_ends_when_it_has_enough_bytes(journal: Journal) -> None:
    journal.write(rows("abcd", first=1))
    assert payloads(journal.rows_of(Q, 0, 9, 4)) == ["a", "b"]
    assert payloads(journal.rows_of(Q, 0, 9, 1)) == ["a"]


def test_a_row_is_written_in_the_place_of_the_one_with_its_number(
    journal: Journal,
) -> None:
    journal.write(rows("a", first=1))
    journal.write(rows("b", first=1))
    assert payloads(journal.rows_of(Q, 0, 9, 999)) == ["b"]


def test_rows_are_erased(journal: Journal) -> None:
    journal.write(rows("abc", first=1))
    journal.write((), [1, 3, 99])
    assert payloads(journal.rows_of(Q, 0, 9, 999)) == ["b"]
    assert not journal.is_empty()
    journal.write((), [2])
    assert journal.is_empty()


def test_a_failed_write_leaves_nothing_and_the_next_one_works(
    journal: Journal,
) -> None:
    with pytest.raises(sqlite3.Error):
        journal.write([*rows("a", first=1), ("too", "few")])
    journal.write(rows("b", first=2))
    assert payloads(journal.rows_of(Q, 0, 9, 999)) == ["b"]


def test_what_was_written_is_there_for_the_next_process(path: Path) -> None:
    journal = Journal.create(path)
    journal.write(rows("ab"))
    # Not closed, as after a kill: the rows are in the "-wal".
    other = Journal.open(path)
    assert was_begun(path)
    other.check()
    assert payloads(other.rows_of(Q, 0, 9, 999)) == ["a", "b"]
    other.close()
    journal.close()


def test_a_sync_can_be_asked_for(path: Path) -> None:
    def level(journal: Journal) -> int:
        ((level,),) = journal._connection.execute("PRAGMA synchronous")
        journal.close()
        return int(level)

    assert level(Journal.create(path)) == 1
    assert level(Journal.open(path, full_sync=True)) == 2


def test_a_file_that_never_got_its_table_is_recognised(path: Path) -> None:
    path.touch()
    assert not was_begun(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert path.stat().st_size == PAGE_SIZE
    assert not was_begun(path)


def test_a_file_is_begun_before_its_first_row(journal: Journal, path: Path) -> None:
    assert was_begun(path)
    journal.write(rows(range(1000)))
    assert was_begun(path)


def change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def test_a_newer_version_is_not_touched(journal: Journal, path: Path) -> None:
    mark = (0x4543 << 16) | 4
    change(path, f"PRAGMA application_id = {mark}")
    change(path, "PRAGMA user_version = 4")
    with pytest.raises(NewerVersion, match=r"has format version 4, but .* supports 3"):
        was_begun(path)


def test_a_flipped_bit_is_not_taken_for_a_newer_version(
    journal: Journal, path: Path
) -> None:
    change(path, "PRAGMA user_version = 257")
    with pytest.raises(sqlite3.DatabaseError) as raised:
        was_begun(path)
    assert is_damage(raised.value)


def test_a_reader_changes_nothing(journal: Journal, path: Path) -> None:
    journal.write(rows("a"))
    reader = Journal.open(path, read_only=True)
    assert payloads(reader.rows_with(["a"])) == ["a"]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.write((), [1])
    reader.close()


@pytest.mark.parametrize(
    ("error", "damaged"),
    [
        (sqlite3.DatabaseError("database disk image is malformed"), True),
        (sqlite3.OperationalError("database or disk is full"), False),
        (sqlite3.OperationalError("database is locked"), False),
        (OSError("no space left"), False),
    ],
)
def test_damage_is_distinguished_from_temporary_errors(
    error: Exception, damaged: bool
) -> None:
    assert is_damage(error) == damaged
