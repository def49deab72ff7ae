"""The "-wal" beside a file: the pages that SQLite has not moved into the file yet.

See https://www.sqlite.org/fileformat2.html#the_write_ahead_log and
https://www.sqlite.org/walformat.html#the_wal_index_file_format for the formats.
"""

from __future__ import annotations

import sqlite3
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from ..journal import PAGE_SIZE

_Order = Literal["big", "little"]
#: The two halves of SQLite's checksum, which goes on from frame to frame.
_Sum = tuple[int, int]

_HEADER_SIZE, _FRAME_HEADER_SIZE = 32, 24
#: Its last bit says the order of the bytes in which the checksums are made.
_MAGIC = 0x377F0682
#: The "-shm" begins with two copies of a header of its own.
_SHARED_SIZE = 48


class Frame(NamedTuple):
    """One image of a page."""

    page: int
    #: Where the image begins in the "-wal".
    place: int
    #: Whether it is what was written, in a transaction that was committed.
    is_sure: bool


class Wal(NamedTuple):
    """What was found in a "-wal".

    SQLite writes it from the beginning, again and again. Behind the frames that are in
    use may be those of an earlier use, which are left out here.
    """

    frames: list[Frame]
    #: How many frames SQLite reads: it stops at the first that is not whole.
    readable: int
    #: How many were committed, for all that still says so.
    committed: int


def check_wal(path: Path) -> None:
    """Whether SQLite would read all that was committed to *path*, which nobody uses.

    SQLite itself says nothing, and cuts off what it does not read. A transaction that
    was not committed is no damage: its process was killed while it wrote.

    :raises sqlite3.DatabaseError: it would not.
    """
    wal = read_wal(path)
    if wal.readable < wal.committed:
        raise sqlite3.DatabaseError(
            f"its -wal is damaged: SQLite would read {wal.readable} of"
            f" {wal.committed} frames"
        )


def read_wal(path: Path) -> Wal:
    """Look through the "-wal" of *path*, damaged or not."""
    header, written = _content(path)
    salts, committed = _shared(path)
    if header.is_whole and salts != header.salts:
        # The "-shm" is missing, or tells of an earlier use.
        salts, committed = header.salts, 0
    elif not salts:
        salts = next((frame.salts for frame in written if frame.fits), b"")
    frames = list(_in_use(written, salts))
    commits = (number for number, frame in enumerate(frames, 1) if frame.commits)
    committed = max(committed, *commits, 0)
    return Wal(
        frames=[
            Frame(frame.page, frame.place, frame.fits and number <= committed)
            for number, frame in enumerate(frames, 1)
        ],
        readable=_readable(frames, salts) if header.is_whole else 0,
        committed=committed,
    )


def _content(path: Path) -> tuple[_Header, list[_Written]]:
    try:
        with Path(f"{path}-wal").open("rb") as file:
            header = _Header(file.read(_HEADER_SIZE))
            return header, list(_written(file, header))
    except FileNotFoundError:
        return _Header(b""), []


class _Header:
    """Where the "-wal" begins. It is written anew with each use of the file."""

    def __init__(self, content: bytes) -> None:
        magic = int.from_bytes(content[:4], "big")
        order: _Order = "big" if magic & 1 else "little"
        #: What the checksum of the first frame goes on from.
        self.sum = _stored_sum(content[24:], "big")
        self.salts = content[16:24]
        self.is_whole = (
            len(content) == _HEADER_SIZE
            and magic | 1 == _MAGIC | 1
            and _checksum((0, 0), content[:24], order) == self.sum
        )
        self.order: _Order = order if self.is_whole else sys.byteorder


class _Written(NamedTuple):
    """A frame as it is in the file, in use or not."""

    page: int
    place: int
    #: Whether a transaction ends with it.
    commits: bool
    #: Random: the same in all frames of one use of the file.
    salts: bytes
    #: Whether its checksum is right, and goes on from the frame before it.
    fits: bool


def _written(file: BinaryIO, header: _Header) -> Iterator[_Written]:
    before = header.sum
    while True:
        about, place = file.read(_FRAME_HEADER_SIZE), file.tell()
        image = file.read(PAGE_SIZE)
        if len(image) < PAGE_SIZE:
            return
        page, size = struct.unpack(">II", about[:8])
        own = _stored_sum(about[16:], "big")
        fits = _checksum(before, about[:8] + image, header.order) == own
        yield _Written(page, place, bool(size), about[8:16], fits)
        before = own


def _in_use(frames: list[_Written], salts: bytes) -> Iterator[_Written]:
    is_in_use = True
    for frame in frames:
        # Damaged salts are not covered by the checksum. That of an older frame does
        # not go on from one that is in use.
        is_in_use = frame.salts == salts or (frame.fits and is_in_use)
        if is_in_use:
            yield frame


def _readable(frames: list[_Written], salts: bytes) -> int:
    readable = 0
    for number, frame in enumerate(frames, 1):
        if not frame.fits or frame.salts != salts:
            break
        if frame.commits:
            readable = number
    return readable


def _shared(path: Path) -> tuple[bytes, int]:
    """The salts, and how many frames were committed, as the "-shm" has it.

    It outlives a ``kill -9``. After a loss of power it may be old.
    """
    content = b""
    with suppress(FileNotFoundError), Path(f"{path}-shm").open("rb") as file:
        content = file.read(2 * _SHARED_SIZE)
    for start in range(0, len(content), _SHARED_SIZE):
        copy = content[start : start + _SHARED_SIZE]
        own = _stored_sum(copy[40:], sys.byteorder)
        is_set = any(copy) and len(copy) == _SHARED_SIZE
        if is_set and _checksum((0, 0), copy[:40], sys.byteorder) == own:
            return copy[32:40], int.from_bytes(copy[16:20], sys.byteorder)
    return b"", 0


def _stored_sum(content: bytes, order: _Order) -> _Sum:
    return int.from_bytes(content[:4], order), int.from_bytes(content[4:8], order)


def _checksum(before: _Sum, content: bytes, order: _Order) -> _Sum:
    """SQLite's checksum of *content*: https://www.sqlite.org/fileformat2.html#checksum_algorithm"""
    one, two = before
    sign = ">" if order == "big" else "<"
    words = iter(struct.unpack(f"{sign}{len(content) // 4}I", content))
    for first, second in zip(words, words, strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
