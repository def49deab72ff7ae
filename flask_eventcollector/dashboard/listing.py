"""Finds the events that a page shows, or that an action is about."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..stores.filter import Filter
from .places import Places, Shown

#: How many events a page shows, and how many pages there are: to show one, the events
#: before it are read.
PAGE, LAST_PAGE = 50, 100
#: The longest text that is looked for, in characters.
_LONGEST = 500

_ID = re.compile("[0-9a-fA-F-]{4,36}")


class Asked(NamedTuple):
    """Which events are asked for."""

    #: A queue, a target as text, or a pattern for one of them; ``""``: any.
    target: str = ""
    #: ``"waiting"``, ``"dead"``, or ``""`` for both.
    state: str = ""
    #: A part of the reason, or the beginning of an id; ``""``: any.
    text: str = ""
    #: From 1 on.
    page: int = 1

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Asked:
        """What the fields of a form or a URL say; what is invalid is left out."""
        state, page = values.get("state", ""), values.get("page", "1")
        return cls(
            values.get("target", "").strip()[:_LONGEST],
            state if state in ("waiting", "dead") else "",
            values.get("text", "").strip()[:_LONGEST],
            min(
                max(1, int(page)) if re.fullmatch("[0-9]{1,6}", page) else 1, LAST_PAGE
            ),
        )

    @property
    def fields(self) -> dict[str, str]:
        """Its conditions, without those that are empty."""
        named = {"target": self.target, "state": self.state, "text": self.text}
        return {name: value for name, value in named.items() if value}

    @property
    def filter(self) -> Filter:
        """Its conditions, without the text."""
        state = self.state
        return Filter(self.target or None, state == "dead", waiting=state == "waiting")


class Found(NamedTuple):
    """The events of one page."""

    events: Sequence[Shown]
    #: Whether there are more behind them.
    has_next: bool
    #: Whether these are not shown any more.
    is_last: bool


def find(places: Places, asked: Asked) -> Found:
    """The events of the page that is *asked* for."""
    first = (asked.page - 1) * PAGE
    some = itertools.islice(matching(places, asked), first, first + PAGE + 1)
    events = [*some]
    return Found(events[:PAGE], len(events) > PAGE, asked.page == LAST_PAGE)


def matching(places: Places, asked: Asked) -> Iterator[Shown]:
    """All events that are *asked* for, oldest first.

    If the text is the beginning of an id, those are meant, and at most a page of them.
    Otherwise, it is looked for in the reasons.
    """
    wanted = asked.filter
    if _ID.fullmatch(asked.text):
        ids = sorted(places.ids_from(asked.text.lower()))[:PAGE]
        if ids:
            found = places.with_ids(ids)
            return (one for one in found if _meets(one, wanted))
    return places.events(wanted._replace(reason=asked.text or None))


def _meets(found: Shown, wanted: Filter) -> bool:
    is_dead = found.state == "dead"
    target = found.event.target
    return wanted.selects_state(dead=is_dead) and wanted.selects_queue(target)
