"""Damaged files: whatever is whole in them is delivered, and the app goes on."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector.backlog.folder import Folder
from flask_eventcollector.backlog.journal import PAGE_SIZE, Journal
from flask_eventcollector.backlog.rows import DamagedRow, read_row
from flask_eventcollector.backlog.salvage import whole_rows
from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.delivery import Delivery
from tests.backlog.support import leave, rows, spooling
from tests.helpers import DEADLINE, wait_until
from tests.parts import Told, collect, make_delivery

EVENTS = 60
#: So that a file has some pages.
PADDING = {"padding": "x" * 150}
Damage = Callable[[Path, random.Random], None]


def flip(path: Path, chance: random.Random) -> None:
    """Flip some bits anywhere."""
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 5, 50])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def flip_in_header(path: Path, chance: random.Random) -> None:
    """Flip bits in SQLite's header and in the schema."""
    content = bytearray(path.read_bytes())
    for place in (chance.randrange(100), chance.randrange(PAGE_SIZE)):
        content[place] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    """Cut off the end."""
    os.truncate(path, chance.randrange(1, path.stat().st_size))


def lose_a_page(path: Path, chance: random.Random) -> None:
    """Overwrite a page, as a disk does that writes to the wrong place."""
    pages = path.stat().st_size // PAGE_SIZE
    with path.open("r+b") as file:
        file.seek(PAGE_SIZE * chance.randrange(1, pages))
        file.write(chance.randbytes(PAGE_SIZE))


DAMAGES: list[Damage] = [flip, flip_in_header, truncate, lose_a_page]


def left(folder: Path, queues: int = 3) -> Path:
    """A file with events for several queues."""
    path = leave(folder, [])
    journal = Journal.open(path)
    for number in range(EVENTS):
        queue = f"q{number % queues}"
        journal.write(rows([number], first=number + 1, queue=queue, headers=PADDING))
    journal.close()
    return path


def whole(path: Path) -> list[int]:
    return [stored.event.payload for stored in whole_rows(path)]


def deliver(folder: Path, told: Told) -> Delivery:
    return make_delivery(
        MemoryBroker(), told, backlog=spooling(folder), durable=True, max_events=10_000
    )


def published(told: Told) -> list[int]:
    return sorted(p for p in told.payloads("events-published") if isinstance(p, int))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("seed", range(50))
def test_the_whole_rows_of_a_damaged_file_are_delivered(
    tmp_path: Path, damage: Damage, seed: int
) -> None:
    folder = tmp_path / "spool"
    path = left(folder)
    damage(path, random.Random(seed))
    expected = sorted(expected_rows(path))
    told = Told()

    delivery = deliver(folder, told)
    try:
        # The app serves: its own events go, whatever is in the folder.
        assert delivery.publish(collect(delivery, "own")).confirmed == 1
        assert delivery.flush(DEADLINE)
        wait_until(lambda: set(published(told)) >= set(expected), "all is told")
        delivery.close(DEADLINE)
        files = {p.name for p in folder.iterdir()}
        stats = delivery.stats()
    finally:
        delivery.close(0)
    found = published(told)
    assert len(found) == len(set(found))
    assert set(expected) <= set(found) <= set(range(EVENTS))
    assert stats.balanced
    # Nothing of it is deleted unless each of its events was delivered.
    aside = {name for name in files if name.startswith(f"{path.name}.aside")}
    assert files == aside
    assert bool(aside) == (stats.set_aside == 1)
    if len(found) < EVENTS:
        assert aside


def expected_rows(path: Path) -> set[int]:
    """What can still be read with the pages as they are, by another way: one by one."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    sound = path.with_name("sound")
    Journal.create(sound).close()
    first = bytearray(sound.read_bytes()[:PAGE_SIZE])
    first[92:96] = bytes(4)
    with copy.open("r+b") as file:
        file.write(first)
    found = set()
    with sqlite3.connect(copy) as connection:
        connection.text_factory = bytes
        for number in range(EVENTS + 1):
            query = "SELECT * FROM events WHERE number = ?"
            try:
                for row in connection.execute(query, [number]):
                    found.add(read_row(row).event.payload)
            except (sqlite3.Error, DamagedRow):
                continue
    connection.close()
    for extra in (copy, sound):
        for file_path in path.parent.glob(f"{extra.name}*"):
            file_path.unlink()
    return found


def test_a_sound_file_is_read_whole(tmp_path: Path) -> None:
    assert whole(left(tmp_path)) == list(range(EVENTS))


def test_a_file_that_is_nothing_of_the_kind_holds_nothing(tmp_path: Path) -> None:
    path = leave(tmp_path, [])
    path.write_bytes(b"no database" * 5000)
    assert whole(path) == []


def test_a_hole_in_the_middle_costs_its_own_rows_only(tmp_path: Path) -> None:
    path = left(tmp_path)
    content = path.read_bytes()
    pages = range(PAGE_SIZE, len(content), PAGE_SIZE)
    # https://www.sqlite.org/fileformat2.html#b_tree_pages: 13 is a leaf of a table.
    leaves = [page for page in pages if content[page] == 13]
    with path.open("r+b") as file:
        file.seek(leaves[1])
        file.write(bytes(PAGE_SIZE))
    found = whole(path)
    assert 0 < EVENTS - len(found) < 20
    assert found == sorted(found)


def test_what_was_not_moved_into_the_file_yet_is_read_too(tmp_path: Path) -> None:
    path = leave(tmp_path, [])
    journal = Journal.open(path)
    journal.write(rows(range(5)))
    content = {p: p.read_bytes() for p in tmp_path.glob(f"{path.name}*")}
    journal.close()
    for file, before in content.items():
        file.write_bytes(before)
    damaged = bytearray(path.read_bytes())
    damaged[0] ^= 1
    path.write_bytes(damaged)
    assert whole(path) == [0, 1, 2, 3, 4]


def test_a_payload_that_was_changed_is_not_delivered(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    path = leave(folder, ["first", "second", "third"])
    path.write_bytes(path.read_bytes().replace(b'"second"', b'"sEcond"'))
    told = Told()
    delivery = deliver(folder, told)
    delivery.start()
    told.wait_for("events-published", ["first", "third"])
    delivery.close(DEADLINE)
    assert {p.name for p in folder.iterdir()} == {f"{path.name}.aside"}
    [about] = [a for name, a in told._heard if name == "spool-file-set-aside"]
    assert about == {
        "path": folder / f"{path.name}.aside",
        "reason": "1 row(s) are not what was written",
        "rescued": 2,
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_file_is_set_aside_unread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "spool"
    path = leave(folder, "ab")
    os.chown(path, 12345, -1)
    told = Told()
    delivery = deliver(folder, told)
    assert delivery.publish(collect(delivery, "own")).confirmed == 1
    wait_until(lambda: delivery.stats().set_aside == 1, "it is set aside")
    delivery.close(DEADLINE)
    assert told.payloads("events-published") == ["own"]
    assert "belongs to the user with the id 12345" in caplog.text


def test_a_newer_versions_file_is_left_where_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    path = leave(folder, "ab")
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {(0x4543 << 16) | 2}")
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    delivery = deliver(folder, Told())
    delivery.start()
    wait_until(lambda: "version 2" in delivery.stats().spool_error, "it is noted")
    delivery.close(DEADLINE)
    assert Folder(folder, "shop").files() == [path]


def test_a_file_that_was_never_begun_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    path = leave(folder, [])
    path.write_bytes(b"")
    delivery = deliver(folder, Told())
    delivery.start()
    assert delivery.flush(DEADLINE)
    delivery.close(DEADLINE)
    assert list(folder.iterdir()) == []


def test_what_a_full_disk_does_not_take_of_a_damaged_file_is_delivered_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "spool"
    path = left(folder)
    flip_in_header(path, random.Random(1))

    def fail(*args: Any, **more: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Journal, "write", fail)
    told = Told()
    delivery = deliver(folder, told)
    delivery.start()
    wait_until(lambda: len(published(told)) == EVENTS, "all is delivered")
    delivery.close(DEADLINE)
