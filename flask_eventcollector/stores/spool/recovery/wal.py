"""Reads the "-wal", which has the pages that SQLite has not moved to the file yet.

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
#: The two halves of SQLite's checksum, which is cumulative over the frames.
_Sum = tuple[int, int]

_HEADER_SIZE, _FRAME_HEADER_SIZE = 32, 24
#: Its last bit gives the byte order of the checksums.
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
    """The content of a "-wal".

    SQLite reuses the file from its start. After the frames in use, there may be frames
    from an earlier use, which are omitted here.
    """

    frames: list[Frame]
    #: How many frames SQLite reads: it stops at the first damaged one.
    readable: int
    #: How many frames were committed, according to all available evidence.
    committed: int


def check_wal(path: Path) -> None:
    """Check that SQLite would read everything committed to the unused file *path*.

    SQLite silently truncates what it can't read. An uncommitted transaction is not
    damage: its process was killed while writing.

    :raises sqlite3.DatabaseError: SQLite would lose committed frames.
    """
    wal = read_wal(path)
    if wal.readable < wal.committed:
        raise sqlite3.DatabaseError(
            f"its -wal is damaged: SQLite would read {wal.readable} of"
            f" {wal.committed} frames"
        )


def read_wal(path: Path) -> Wal:
    """Read the "-wal" of *path*, damaged or not."""
    header, written = _content(path)
    salts, committed = _shared(path)
    if header.is_whole and salts != header.salts:
        # The "-shm" is missing, or describes an earlier use.
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
    """The header of the "-wal", which is rewritten at each reuse of the file."""

    def __init__(self, content: bytes) -> None:
        magic = int.from_bytes(content[:4], "big")
        order: _Order = "big" if magic & 1 else "little"
        #: The initial value for the checksum of the first frame.
        self.sum = _stored_sum(content[24:], "big")
        self.salts = content[16:24]
        self.is_whole = (
            len(content) == _HEADER_SIZE
            and magic | 1 == _MAGIC | 1
            and _checksum((0, 0), content[:24], order) == self.sum
        )
        self.order: _Order = order if self.is_whole else sys.byteorder


class _Written(NamedTuple):
    """A frame in the file, in use or not."""

    page: int
    place: int
    #: Whether it is the last frame of a transaction.
    commits: bool
    #: Random bytes, the same in all frames of one use of the file.
    salts: bytes
    #: Whether its checksum is valid, continuing from the previous frame.
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
        # The checksum does not cover the salts, which may be damaged. The checksum of
        # an older frame does not continue from a frame in use.
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
    """The salts and the number of committed frames, according to the "-shm".

    It survives a ``kill -9``. After a power failure, it may be outdated.
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
