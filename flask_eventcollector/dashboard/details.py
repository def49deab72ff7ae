"""What a page shows of one event."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..app_state import AppState
from ..backlog.present import not_searched, present_of
from ..backlog.story import Story
from ..config.settings import choose_spool_name
from ..events import Event
from ..monitoring.history.reader import History
from ..monitoring.history.records import Counts, Line
from ..stores.spool.admin.reading import Unreadable
from .places import Places, Shown

#: The most characters of a payload, and the most lines of a life, that a page shows.
_LONGEST, _MOST_LINES = 100_000, 200


class Content(NamedTuple):
    """What an event says, which may be confidential."""

    headers: Mapping[str, Any]
    payload: str
    #: Whether the payload is longer.
    is_cut: bool


class Details(NamedTuple):
    """One event."""

    id: str
    #: Where it waits, each of its places; empty: nowhere.
    found: Sequence[Shown]
    #: What has happened to it, the last of it.
    lines: Sequence[Line]
    #: What comes next.
    next: str

    @property
    def event(self) -> Event | None:
        """The event itself; ``None``: only its life is known."""
        return self.found[0].event if self.found else None


def details(state: AppState, places: Places, id: str) -> Details | None:
    """The event with this *id*; ``None``: nothing is known about it.

    What could not be read is among the problems of *places*.
    """
    found, history = places.with_ids([id]), _history_of(state)
    lines = _lines_of(history, id, places.problems)
    if not found and places.backlog is not None:
        places.problems.extend(not_searched(places.backlog))
    if not (found or lines):
        return None
    present = present_of(lines, history, places.backlog, places.problems)
    if present.counts is None:
        present = present._replace(counts=_own_counts(state))
    story = Story(lines, found[0] if found else None, present)
    next_step = "; now: ".join(filter(None, [story.next, story.trouble]))
    return Details(id, found, lines[-_MOST_LINES:], next_step)


def _own_counts(state: AppState) -> list[Counts] | None:
    """What this process has counted; ``None``: it has not handled any event."""
    delivery = state.delivery_if_used()
    if delivery is None:
        return None
    return [Counts(os.getpid(), time.time(), delivery.stats().as_dict())]


def content_of(event: Event) -> Content:
    """What *event* says: JSON in lines, any other payload as text with escapes."""
    payload = event.payload
    if isinstance(payload, bytes):
        text = payload[: _LONGEST + 1].decode(errors="backslashreplace")
    else:
        text = json.dumps(payload, indent=2, ensure_ascii=False)
    return Content(event.headers, text[:_LONGEST], len(text) > _LONGEST)


def _history_of(state: AppState) -> History | None:
    folder = state.config.history_dir
    if folder is None:
        return None
    return History(folder, choose_spool_name(state.config, state.app))


def _lines_of(
    history: History | None, id: str, problems: list[Unreadable]
) -> list[Line]:
    if history is None:
        return []
    lines: list[Line] = []
    # Unless no process has written to it yet.
    with suppress(OSError):
        lines = [line for line in history.of(id) if id in line.ids]
    problems += (Unreadable(path, why) for path, why in history.problems.items())
    return lines
