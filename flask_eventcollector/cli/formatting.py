"""Formats values for people."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from ..backlog.wording import (
    age,
    age_of,
    count,
    events,
    moment_of,
    number,
    printable,
    size,
    wait,
)

__all__ = [
    "age",
    "age_of",
    "count",
    "events",
    "liveness",
    "moment_of",
    "number",
    "printable",
    "size",
    "table",
    "wait",
]


def liveness(alive: bool) -> str:
    """The status of a process."""
    return "alive" if alive else "gone"


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[int] = (),
    hidden: Container[int] = (),
) -> list[str]:
    """Lines with aligned columns.

    :param right: the columns that are right-aligned.
    :param hidden: the columns that are left out.
    """
    lines = [heads, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = set(right)
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
            if number not in hidden
        ).rstrip()
        for line in lines
    ]
