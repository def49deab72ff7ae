"""Reads the whole rows of a damaged file."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from ..rows import StoredEvent
from .pages import Pages, open_pages


class _Leaf(NamedTuple):
    """An image of a page with rows on it."""

    #: The number of its first row that is whole.
    first: int
    #: How many newer images the page has.
    age: int
    page: int


def intact_rows(path: Path) -> Iterator[StoredEvent]:
    """The rows of *path* that are what was written, each once, in order.

    SQLite finds a page with rows by other pages, and a damaged one of those hides all
    that it leads to. So each page is looked at by itself, and each row's own checksum
    says what is whole. It needs no room on the disk, which may be full. SQLite
    overwrites what it erases (see `Journal.open`), so erased rows don't come back,
    unless the newest image of their page is damaged and an older one is read.

    Nothing is written. :raises OSError: the file can't be read now.
    """
    with open_pages(path) as pages:
        last = None
        for stored in _in_order(pages):
            if stored.number != last:
                last = stored.number
                yield stored


def _in_order(pages: Pages) -> Iterator[StoredEvent]:
    """The rows by their numbers, and of those with the same number the newest first."""
    found: list[tuple[int, int, int, StoredEvent]] = []
    order = count()
    for leaf in sorted(_leaves(pages)):
        # No leaf that follows has a lower number.
        while found and found[0][0] < leaf.first:
            yield heapq.heappop(found)[-1]
        image = next(islice(pages.images(leaf.page), leaf.age, None))
        for stored in pages.rows_on(image):
            heapq.heappush(found, (stored.number, leaf.age, next(order), stored))
    while found:
        yield heapq.heappop(found)[-1]


def _leaves(pages: Pages) -> Iterator[_Leaf]:
    for page in pages:
        for age, image in enumerate(pages.images(page)):
            for stored in islice(pages.rows_on(image), 1):
                yield _Leaf(stored.number, age, page)
