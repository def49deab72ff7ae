"""Damaged files: their intact rows are delivered, and the app keeps working."""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import sqlite3
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.delivery.delivery import Delivery
from flask_eventcollector.delivery.entries import Entry
from flask_eventcollector.stores.spool.folder import Folder
from flask_eventcollector.stores.spool.journal import PAGE_SIZE, SUFFIXES, Journal
from flask_eventcollector.stores.spool.recovery.salvage import intact_rows
from flask_eventcollector.stores.spool.rows import row_of
from flask_eventcollector.testing import FaultInjector
from tests.helpers import DEADLINE, wait_until
from tests.parts import SignalLog, collect, make_delivery, make_event
from tests.spool.support import HERE, failing, leave, rows, spooling

#: This gives a file several pages.
PADDING = {"padding": "x" * 150}
#: SQLite's formats, to parse the files without the library.
WAL_HEADER, FRAME_HEADER = 32, 24
FRAME = FRAME_HEADER + PAGE_SIZE
ROOT = 2
INTERIOR, LEAF = 5, 13

#: The content of a file and its companions, by suffix.
Content = dict[str, bytes]
Damage = Callable[[Path, random.Random], None]


def flip(path: Path, chance: random.Random) -> None:
    """Flip some random bits."""
    flip_between(path, 0, path.stat().st_size, chance, chance.choice([1, 1, 5, 50]))


def flip_in_header(path: Path, chance: random.Random) -> None:
    """Flip bits in SQLite's header and in the schema."""
    flip_between(path, 0, 100, chance)
    flip_between(path, 0, PAGE_SIZE, chance)


def truncate(path: Path, chance: random.Random) -> None:
    """Cut off the end."""
    os.truncate(path, chance.randrange(1, path.stat().st_size))


def lose_a_page(path: Path, chance: random.Random) -> None:
    """Overwrite a page, as by a misdirected write of the disk."""
    overwrite(path, chance.randrange(1, path.stat().st_size // PAGE_SIZE), chance)


def lose_the_root(path: Path, chance: random.Random) -> None:
    """Overwrite the root page of the table."""
    overwrite(path, ROOT - 1, chance)


def lose_a_guide(path: Path, chance: random.Random) -> None:
    """Overwrite an interior page, which refers to some of the rows."""
    content = path.read_bytes()
    pages = range(ROOT, len(content) // PAGE_SIZE)
    guides = [n for n in pages if kind(content, n) == INTERIOR]
    overwrite(path, chance.choice(guides), chance)


def flip_in_wal(path: Path, chance: random.Random) -> None:
    """Flip some bits in the "-wal"."""
    flip(wal_of(path), chance)


def flip_in_wal_header(path: Path, chance: random.Random) -> None:
    """Flip a bit in the header of the "-wal"."""
    flip_between(wal_of(path), 0, WAL_HEADER, chance)


def lose_the_begin_of_wal(path: Path, chance: random.Random) -> None:
    """Overwrite the header of the "-wal", and its first frames."""
    overwrite(wal_of(path), 0, chance)


def truncate_wal(path: Path, chance: random.Random) -> None:
    """Cut off the end of the "-wal"."""
    truncate(wal_of(path), chance)


def wal_of(path: Path) -> Path:
    return Path(f"{path}-wal")


def flip_between(
    path: Path, first: int, end: int, chance: random.Random, bits: int = 1
) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(bits):
        content[chance.randrange(first, end)] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def overwrite(path: Path, page: int, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(PAGE_SIZE * page)
        file.write(chance.randbytes(PAGE_SIZE))


def kind(content: bytes, page: int) -> int:
    """The type of a page; pages are numbered from 0."""
    return content[page * PAGE_SIZE]


def event_row(number: int, length: int) -> tuple[Any, ...]:
    """A row whose body contains its number on each of its pages."""
    payload = f"<{number}>" * max(1, length // len(f"<{number}>"))
    queue, id = f"q{number % 3}", f"id-{number}"
    event = make_event(payload, queue, headers=PADDING, id=id)
    return row_of(Entry(event), number)


def left(folder: Path, lengths: Sequence[int], *, unmoved: int = 0) -> Content:
    """A file with bodies of these *lengths*, written one by one.

    The last *unmoved* of them were still in the "-wal" when the process was killed,
    followed by older frames.
    """
    path = folder / "made"
    journal = Journal.create(path, str(HERE))
    for number, length in enumerate(lengths, 1):
        if number == len(lengths) - unmoved + 1:
            checkpoint = journal._connection.execute("PRAGMA wal_checkpoint")
            ((_, in_wal, migrated),) = checkpoint
            assert in_wal == migrated
        journal.write([event_row(number, length)])
    if not unmoved:
        journal.close()
    content = content_of(path)
    journal.close()
    return content


def content_of(path: Path) -> Content:
    names = {suffix: Path(f"{path}{suffix}") for suffix in ("", *SUFFIXES)}
    return {s: name.read_bytes() for s, name in names.items() if name.exists()}


def put(folder: Path, content: Content) -> Path:
    """Put a dead process's file into the spool's folder."""
    path = leave(folder, [])
    for suffix, part in content.items():
        Path(f"{path}{suffix}").write_bytes(part)
    return path


class Piece(NamedTuple):
    """The place of the newest image of a page."""

    suffix: str
    place: int
    size: int

    def of(self, content: Content) -> bytes:
        return content.get(self.suffix, b"")[self.place : self.place + self.size]


def newest_images(content: Content) -> list[Piece]:
    """The newest images of all pages, found without the library."""
    main, wal = content[""], content.get("-wal", b"")
    images = {
        place // PAGE_SIZE + 1: Piece("", place, PAGE_SIZE)
        for place in range(0, len(main) - PAGE_SIZE + 1, PAGE_SIZE)
    }
    for place in range(WAL_HEADER, len(wal) - FRAME + 1, FRAME):
        # The salts of older frames differ from the header's.
        if wal[place + 8 : place + 16] == wal[16:24]:
            page = int.from_bytes(wal[place : place + 4], "big")
            images[page] = Piece("-wal", place, FRAME)
    return list(images.values())


def pieces_of_rows(content: Content) -> dict[int, list[Piece]]:
    """The places of the parts of each row."""
    pieces: dict[int, list[Piece]] = defaultdict(list)
    for piece in newest_images(content):
        for number in set(re.findall(rb"<(\d+)>", piece.of(content))):
            pieces[int(number)].append(piece)
    return pieces


def whole_rows_of(before: Content, after: Content) -> set[int]:
    """The rows whose parts are all intact.

    Data that was cut off counts as never written: its pages may have older images,
    which then are the newest.
    """
    rest = {suffix: before[suffix][: len(part)] for suffix, part in after.items()}
    all_pieces = pieces_of_rows(before)
    return {
        number
        for number, pieces in pieces_of_rows(rest).items()
        if len(pieces) == len(all_pieces[number])
        and all(piece.of(after) == piece.of(before) for piece in pieces)
    }


def whole(path: Path) -> list[int]:
    return [number_of(stored.event.payload) for stored in intact_rows(path)]


def number_of(payload: str) -> int:
    return int(payload[1 : payload.index(">")])


def deliver(folder: Path, signal_log: SignalLog) -> Delivery:
    return make_delivery(
        MemoryBroker(),
        signal_log,
        backlog=spooling(folder),
        durable=True,
        max_events=10_000,
    )


def published(signal_log: SignalLog) -> list[int]:
    payloads = signal_log.payloads("events-published")
    return sorted(number_of(p) for p in payloads if p.startswith("<"))


#: Some bodies larger than a page.
LENGTHS = [20] * 24 + [9_000, 20, 5_000, 40_000] + [20] * 16 + [9_000] + [20] * 15

FILES: dict[str, Callable[[Path], Content]] = {
    "closed": lambda folder: left(folder, LENGTHS),
    "killed": lambda folder: left(folder, LENGTHS, unmoved=30),
    # Each page has one row, and there are too many pages for the root to refer to
    # directly.
    "large": lambda folder: left(folder, [2_500] * 560 + [9_000] * 10),
}

#: The kinds of damage, with their numbers of runs.
TRIALS: list[tuple[str, Damage, int]] = [
    ("closed", flip, 25),
    ("closed", flip_in_header, 25),
    ("closed", truncate, 25),
    ("closed", lose_a_page, 25),
    ("large", lose_the_root, 5),
    ("large", lose_a_guide, 10),
    ("killed", flip, 10),
    ("killed", flip_in_wal, 30),
    ("killed", truncate_wal, 25),
    ("killed", flip_in_wal_header, 15),
    ("killed", lose_the_begin_of_wal, 5),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Content]:
    return {n: make(tmp_path_factory.mktemp(n)) for n, make in FILES.items()}


@pytest.mark.parametrize(
    ("name", "damage", "seed"),
    [
        pytest.param(name, damage, seed, id=f"{name}-{damage.__name__}-{seed}")
        for name, damage, seeds in TRIALS
        for seed in range(seeds)
    ],
)
def test_the_whole_rows_of_a_damaged_file_are_delivered(
    tmp_path: Path, files: dict[str, Content], name: str, damage: Damage, seed: int
) -> None:
    folder, before = tmp_path / "spool", files[name]
    path = put(folder, before)
    damage(path, random.Random(seed))
    expected = whole_rows_of(before, content_of(path))
    signal_log = SignalLog()

    delivery = deliver(folder, signal_log)
    try:
        # The app works: its own events are delivered, regardless of the folder's
        # content.
        assert delivery.publish(collect(delivery, "own")).confirmed == 1
        assert delivery.flush(DEADLINE)
        wait_until(
            lambda: set(published(signal_log)) >= expected, "all events are signalled"
        )
        delivery.close(DEADLINE)
        names = {p.name for p in folder.iterdir()}
        stats = delivery.stats()
    finally:
        delivery.close(0)
    found, everything = published(signal_log), set(pieces_of_rows(before))
    assert len(found) == len(set(found))
    assert expected <= set(found) <= everything
    assert stats.balanced
    # No file is deleted unless all of its events were delivered.
    quarantined = {
        name for name in names if name.startswith(f"{path.name}.quarantined")
    }
    assert names == quarantined
    assert bool(quarantined) == (stats.quarantined == 1)
    if set(found) < everything:
        assert quarantined


def test_the_files_are_what_the_trials_need(files: dict[str, Content]) -> None:
    for content in files.values():
        assert whole_rows_of(content, content) == set(pieces_of_rows(content))
    large = files["large"][""]
    kinds = Counter(kind(large, page) for page in range(len(large) // PAGE_SIZE))
    assert kinds[INTERIOR] > 2
    killed = pieces_of_rows(files["killed"])
    in_wal = [p for pieces in killed.values() for p in pieces if p.suffix == "-wal"]
    assert len(in_wal) > 30
    assert max(piece.place for piece in in_wal) + FRAME < len(files["killed"]["-wal"])


@pytest.mark.parametrize("name", FILES)
def test_a_sound_file_is_read_whole(
    tmp_path: Path, files: dict[str, Content], name: str
) -> None:
    found = whole(put(tmp_path, files[name]))
    assert found == sorted(pieces_of_rows(files[name]))


def test_a_file_that_is_nothing_of_the_kind_holds_nothing(tmp_path: Path) -> None:
    path = leave(tmp_path, [])
    path.write_bytes(b"no database" * 5000)
    assert whole(path) == []


def test_a_hole_in_the_middle_costs_its_own_rows_only(
    tmp_path: Path, files: dict[str, Content]
) -> None:
    path = put(tmp_path, files["large"])
    content = path.read_bytes()
    leaves = [n for n in range(len(content) // PAGE_SIZE) if kind(content, n) == LEAF]
    with path.open("r+b") as file:
        for page in leaves[1:4]:
            file.seek(page * PAGE_SIZE)
            file.write(bytes(PAGE_SIZE))
    found = whole(path)
    assert len(found) == len(pieces_of_rows(files["large"])) - 3
    assert found == sorted(found)


def test_what_was_erased_does_not_come_back(tmp_path: Path) -> None:
    path = leave(tmp_path, [])
    journal = Journal.open(path)
    journal.write([event_row(number, 9_000) for number in range(1, 201)])
    journal.write((), range(1, 191))
    journal.close()
    overwrite(path, 0, random.Random(1))
    overwrite(path, ROOT - 1, random.Random(1))
    assert whole(path) == list(range(191, 201))


def test_the_rows_come_in_order_wherever_they_are(tmp_path: Path) -> None:
    path = leave(tmp_path, [])
    journal = Journal.open(path)
    journal.write([event_row(number, 2_500) for number in range(1, 41)])
    journal.write((), range(1, 31))
    # New rows reuse the pages of the erased ones.
    journal.write([event_row(number, 2_500) for number in range(41, 61)])
    journal.close()
    assert whole(path) == list(range(31, 61))


def test_what_is_left_of_a_page_is_read(tmp_path: Path) -> None:
    path = leave(tmp_path, [])
    journal = Journal.open(path)
    journal.write([event_row(number, 20) for number in range(1, 9)])
    journal.close()
    # A page is filled from its end.
    os.truncate(path, path.read_bytes().index(b"<1>"))
    assert whole(path) == list(range(2, 9))


def test_the_newest_of_a_rows_images_counts(
    tmp_path: Path, files: dict[str, Content]
) -> None:
    path = leave(tmp_path, [])
    journal = Journal.open(path)
    for body in ("<1>", "<1> again"):
        journal.write(rows([body, "<2>"]))
    content = content_of(path)
    journal.close()
    # Both images of the page are read, since the newer one is damaged.
    damaged = bytearray(content["-wal"])
    damaged[damaged.rindex(b"<2>")] ^= 1
    path = put(tmp_path, {**content, "-wal": bytes(damaged)})
    payloads = [stored.event.payload for stored in intact_rows(path)]
    assert payloads == ["<1> again", "<2>"]


def test_a_payload_is_not_taken_for_rows(tmp_path: Path) -> None:
    made = Journal.create(tmp_path / "made")
    made.write(rows(["hidden"], first=7))
    made.close()
    leaf = made.path.read_bytes()[(ROOT - 1) * PAGE_SIZE :][:PAGE_SIZE]
    row = leaf[int.from_bytes(leaf[8:10], "big") :]
    # On an overflow page, a number precedes its part of the body.
    part = bytearray(struct.pack(">H", 1000) * 2_046)
    part[996 : 996 + len(row)] = row

    def write(begin: int) -> Path:
        event = make_event(id="id")
        object.__setattr__(event, "body", bytes(part * 6)[begin:][: 5 * len(part)])
        path = leave(tmp_path, [])
        journal = Journal.open(path)
        journal.write([row_of(Entry(event), 1)])
        journal.close()
        return path

    # Its position in the page depends on the preceding data.
    place = write(0).read_bytes().index(row) % PAGE_SIZE
    path = write((place - 1000) % len(part))
    content = path.read_bytes()
    places = range(1000, len(content), PAGE_SIZE)
    assert any(content.startswith(row, place) for place in places)
    assert [stored.number for stored in intact_rows(path)] == [1]


def test_what_was_not_moved_into_a_file_that_is_gone_is_delivered(
    tmp_path: Path, files: dict[str, Content]
) -> None:
    folder = tmp_path / "spool"
    path = put(folder, files["killed"])
    path.write_bytes(b"")
    signal_log = SignalLog()
    delivery = deliver(folder, signal_log)
    delivery.start()
    wait_until(lambda: delivery.stats().quarantined == 1, "it is quarantined")
    delivery.close(DEADLINE)
    assert len(published(signal_log)) >= 30


def test_a_page_that_the_disk_can_not_read_is_damage(
    tmp_path: Path, files: dict[str, Content], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pread = put(tmp_path, files["large"]), os.pread

    def fail(file: int, size: int, place: int) -> bytes:
        if place == 100 * PAGE_SIZE:
            raise OSError(errno.EIO, "Input/output error")
        return pread(file, size, place)

    monkeypatch.setattr(os, "pread", fail)
    assert len(whole(path)) == len(pieces_of_rows(files["large"])) - 1


def test_a_damaged_file_that_can_not_be_opened_is_tried_again(
    tmp_path: Path, files: dict[str, Content], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "spool"
    lose_the_root(put(folder, files["closed"]), random.Random(1))
    open_file, failures = os.open, itertools.count(1)

    def fail(name: Any, flags: int, *more: Any, **others: Any) -> int:
        if str(name).endswith(".spool") and next(failures) <= 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_file(name, flags, *more, **others)

    monkeypatch.setattr(os, "open", fail)
    signal_log = SignalLog()
    delivery = deliver(folder, signal_log)
    delivery.start()
    wait_until(lambda: len(published(signal_log)) == len(LENGTHS), "all is delivered")
    delivery.close(DEADLINE)


def test_a_payload_that_was_changed_is_not_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "spool"
    path = leave(folder, ["first", "second", "third"])
    path.write_bytes(path.read_bytes().replace(b'"second"', b'"sEcond"'))
    signal_log = SignalLog()
    delivery = deliver(folder, signal_log)
    delivery.start()
    signal_log.wait_for("events-published", ["first", "third"])
    delivery.close(DEADLINE)
    assert {p.name for p in folder.iterdir()} == {f"{path.name}.quarantined"}
    [about] = [a for name, a in signal_log._heard if name == "spool-file-quarantined"]
    assert about == {
        "path": folder / f"{path.name}.quarantined",
        "reason": "checksum mismatch in 1 row",
        "rescued": 2,
    }
    assert "mismatch in 1 row. 2 events copied or delivered." in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_file_is_quarantined_unread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "spool"
    path = leave(folder, "ab")
    os.chown(path, 12345, -1)
    signal_log = SignalLog()
    delivery = deliver(folder, signal_log)
    assert delivery.publish(collect(delivery, "own")).confirmed == 1
    wait_until(lambda: delivery.stats().quarantined == 1, "it is quarantined")
    delivery.close(DEADLINE)
    assert signal_log.payloads("events-published") == ["own"]
    assert "belongs to the user with id 12345" in caplog.text


def test_a_newer_versions_file_is_left_where_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    path = leave(folder, "ab")
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {(0x4543 << 16) | 4}")
        connection.execute("PRAGMA user_version = 4")
    connection.close()
    delivery = deliver(folder, SignalLog())
    delivery.start()
    wait_until(lambda: "version 4" in delivery.stats().spool_error, "it is noted")
    delivery.close(DEADLINE)
    assert Folder(folder, "shop", HERE).files() == [path]


def test_a_file_that_was_never_begun_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    path = leave(folder, [])
    path.write_bytes(b"")
    delivery = deliver(folder, SignalLog())
    delivery.start()
    assert delivery.flush(DEADLINE)
    delivery.close(DEADLINE)
    assert list(folder.iterdir()) == []


def test_events_of_a_damaged_file_are_delivered_even_if_the_disk_is_full(
    tmp_path: Path, files: dict[str, Content], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "spool"
    path = put(folder, files["closed"])
    flip_in_header(path, random.Random(1))

    def fail(*args: Any, **more: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Journal, "write", fail)
    signal_log = SignalLog()
    delivery = deliver(folder, signal_log)
    delivery.start()
    wait_until(lambda: len(published(signal_log)) == len(LENGTHS), "all is delivered")
    delivery.close(DEADLINE)


def test_events_of_a_damaged_file_that_a_full_disk_does_not_take_are_not_dropped(
    tmp_path: Path, files: dict[str, Content], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "spool"
    path = put(folder, files["closed"])
    flip_in_header(path, random.Random(1))
    full = sqlite3.OperationalError("database or disk is full")
    signal_log = SignalLog()
    delivery = deliver(folder, signal_log)
    FaultInjector.of(delivery.broker).go_down()
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", failing(full))
        delivery.start()
        wait_until(lambda: delivery.stats().retained == len(LENGTHS), "all are read")

        assert not delivery.close(0)

    stats = delivery.stats()
    assert (stats.dropped, stats.retained) == (0, len(LENGTHS))
    assert stats.balanced
    assert "events-dropped" not in [name for name, _ in signal_log._heard]
    # The file is as it was, so the next process delivers them.
    next_log = SignalLog()
    delivery = deliver(folder, next_log)
    delivery.start()
    wait_until(lambda: len(published(next_log)) == len(LENGTHS), "all is delivered")
    delivery.close(DEADLINE)
