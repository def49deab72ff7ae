"""Recovers the intact rows of a damaged file."""

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

    #: The number of its first intact row.
    first: int
    #: How many newer images the page has.
    age: int
    page: int


def intact_rows(path: Path) -> Iterator[StoredEvent]:
    """The intact rows of *path*, each once, in order.

    SQLite locates a page with rows through other pages, and a damaged one hides all
    pages below it. So this examines each page independently, and validates each row by
    its own checksum. Nothing is written, since the disk may be full. SQLite overwrites
    erased rows (see `Journal.open`), so they don't reappear, unless the newest image of
    their page is damaged and an older one is read.

    :raises OSError: the file can't be read.
    """
    with open_pages(path) as pages:
        last = None
        for stored in _in_order(pages):
            if stored.number != last:
                last = stored.number
                yield stored


def _in_order(pages: Pages) -> Iterator[StoredEvent]:
    """The rows ordered by number; of rows with the same number, the newest first."""
    found: list[tuple[int, int, int, StoredEvent]] = []
    order = count()
    for leaf in sorted(_leaves(pages)):
        # No later leaf has a lower number.
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
