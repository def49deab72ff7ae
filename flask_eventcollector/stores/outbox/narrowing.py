"""Lets the database select most of what an operator means."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlalchemy import ColumnElement, Table, or_

from ..filter import Filter
from .table import DEAD

#: What stands for other characters in :func:`fnmatch.fnmatchcase`, and what does in
#: LIKE, with the character that takes this from them. The look-ahead never gives back
#: what it has found: as first character, "]" belongs to a set.
_SPECIAL = re.compile(r"\[(?=(!?\]?))\1[^\]]*\]|[*?%_/]")


def narrowed(table: Table, wanted: Filter) -> Iterator[ColumnElement[bool]]:
    """Conditions for all rows that *wanted* selects, and for few others.

    No database has a pattern that means the same as Python's. So whoever reads the rows
    asks *wanted* again.
    """
    c = table.c
    if wanted.dead:
        yield c.state == DEAD
    if wanted.waiting:
        yield c.state != DEAD
    if wanted.queue is not None:
        names = (c.target_queue, c.exchange + "/" + c.target_queue)
        yield or_(*(_may_match(name, wanted.queue) for name in names))
    if wanted.reason is not None:
        has_it = c.reason.contains(wanted.reason, autoescape=True)
        yield or_(has_it, _may_match(c.reason, wanted.reason))
    if wanted.before is not None:
        yield c.enqueued_at < wanted.before


def _may_match(text: ColumnElement[str], glob: str) -> ColumnElement[bool]:
    return or_(text == glob, text.like(_pattern(glob), escape="/"))


def _pattern(glob: str) -> str:
    """What LIKE finds in each text that matches *glob*, a set being any character."""

    def for_like(found: re.Match[str]) -> str:
        special = found[0]
        if special[0] in "*?[":
            return "%" if special == "*" else "_"
        return f"/{special}"

    return _SPECIAL.sub(for_like, glob)
