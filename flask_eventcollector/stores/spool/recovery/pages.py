"""Reads a file's pages without SQLite.

See https://www.sqlite.org/fileformat2.html#b_tree_pages for the format.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from ..journal import PAGE_SIZE
from ..rows import DamagedRow, StoredEvent, read_row
from .wal import Frame, read_wal

#: The first byte of a page with rows. It distinguishes such a page from an overflow
#: page full of payload, which begins with a page number.
_LEAF = 13
#: The most bytes of a row that a leaf stores, and the fewest of a longer row.
_MOST_INSIDE, _LEAST_INSIDE = PAGE_SIZE - 35, (PAGE_SIZE - 12) * 32 // 255 - 23
#: Bytes of a row in an overflow page, after the number of the next one.
_OUTSIDE = PAGE_SIZE - 4

#: The size of integers in bytes, by serial type.
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
#: Values that take no bytes, by serial type.
_CONSTANTS: dict[int, int | None] = {0: None, 8: 0, 9: 1}

_Read = Callable[[int], bytes]


class Pages:
    """The pages of a file and of its "-wal", by their numbers."""

    def __init__(self, file: int, wal: int | None, frames: list[Frame]) -> None:
        self._file, self._wal = file, wal
        self._count = -(-os.fstat(file).st_size // PAGE_SIZE)
        self._frames: dict[int, list[Frame]] = defaultdict(list)
        for frame in frames:
            self._frames[frame.page].append(frame)

    def __iter__(self) -> Iterator[int]:
        pages = range(1, self._count + 1)
        return chain(pages, (n for n in list(self._frames) if n not in pages))

    def images(self, page: int) -> Iterator[bytes]:
        """The images of *page*, from the newest to the first trustworthy one.

        An image is trustworthy if it was committed and its checksum is valid. The file
        itself has no checksums, so its image is the last resort.
        """
        if self._wal is not None:
            for frame in reversed(self._frames.get(page, [])):
                yield _read(self._wal, frame.place)
                if frame.is_sure:
                    return
        if 1 <= page <= self._count:
            yield _read(self._file, (page - 1) * PAGE_SIZE)

    def rows_on(self, image: bytes) -> Iterator[StoredEvent]:
        """The intact rows on *image*."""
        if image[0] != _LEAF:
            return
        count = min(int.from_bytes(image[3:5], "big"), (PAGE_SIZE - 8) // 2)
        for place in struct.unpack_from(f">{count}H", image, 8):
            stored = self._row(image, place)
            if stored is not None:
                yield stored

    def _row(self, image: bytes, place: int) -> StoredEvent | None:
        # An overflow page may be damaged in the "-wal" but intact in the file.
        for read in (self._newest, self._oldest):
            with suppress(DamagedRow, ValueError, LookupError):
                return read_row(_columns(image, place, read))
        return None

    def _newest(self, page: int) -> bytes:
        return next(self.images(page), b"")

    def _oldest(self, page: int) -> bytes:
        return [b"", *self.images(page)][-1]


@contextmanager
def open_pages(path: Path) -> Iterator[Pages]:
    """Open a file that no process uses, for reading."""
    wal = None
    file = os.open(path, os.O_RDONLY)
    try:
        with suppress(FileNotFoundError):
            wal = os.open(f"{path}-wal", os.O_RDONLY)
        yield Pages(file, wal, read_wal(path).frames)
    finally:
        os.close(file)
        if wal is not None:
            os.close(wal)


def _read(file: int, place: int) -> bytes:
    content = b""
    # An unreadable sector is treated like any other damage.
    with suppress(OSError):
        content = os.pread(file, PAGE_SIZE, place)
    return content.ljust(PAGE_SIZE, b"\0")


def _columns(image: bytes, place: int, read: _Read) -> tuple[Any, ...]:
    """The row at *place*, not validated yet."""
    length, place = _varint(image, place)
    number, place = _varint(image, place)
    record = _record(image, place, length, read)
    # The number is the table's key, so its column in the record is empty.
    return (number, *list(_values(record))[1:])


def _record(image: bytes, place: int, length: int, read: _Read) -> bytes:
    """The bytes of a row. Only the beginning of a long row is on the leaf."""
    if length <= _MOST_INSIDE:
        return image[place : place + length]
    inside = _LEAST_INSIDE + (length - _LEAST_INSIDE) % _OUTSIDE
    if inside > _MOST_INSIDE:
        inside = _LEAST_INSIDE
    parts = [image[place : place + inside]]
    place += inside
    page = int.from_bytes(image[place : place + 4], "big")
    missing, seen = length - inside, set[int]()
    while missing > 0 and page not in seen:
        # Damaged page numbers may form a cycle.
        seen.add(page)
        part = read(page)
        if not part:
            break
        parts.append(part[4 : 4 + missing])
        missing -= _OUTSIDE
        page = int.from_bytes(part[:4], "big")
    return b"".join(parts)


def _values(record: bytes) -> Iterator[int | bytes | None]:
    end, place = _varint(record, 0)
    start = end
    while place < end:
        kind, place = _varint(record, place)
        if kind in _CONSTANTS:
            yield _CONSTANTS[kind]
            continue
        size = _INTEGERS[kind] if kind < 12 else (kind - 12) // 2
        value = record[start : start + size]
        yield int.from_bytes(value, "big", signed=True) if kind < 12 else value
        start += size


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """The number at *place*, of one to nine bytes, and the place after it."""
    number = 0
    for byte in content[place : place + 8]:
        place += 1
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, place
    return number << 8 | content[place], place + 1
