"""The columns in which commands and pages show the books."""

from __future__ import annotations

from collections.abc import Iterable

from .history.records import Counts, total

#: The field of :class:`~flask_eventcollector.Stats`, and its heading. The first two
#: have the same sum as the others.
COLUMNS = {
    "enqueued": "Enqueued",
    "adopted": "Adopted",
    "confirmed": "Confirmed",
    "unrouted": "Unrouted",
    "discarded": "Discarded",
    "dropped": "Dropped",
    "outboxed": "Outboxed",
    "collected": "Collected",
    "delayed": "Delayed",
    "in_flight": "In flight",
    "retained": "Retained",
    "dead": "Dead",
}
#: Those that most apps never need.
RARE = frozenset({"adopted", "unrouted", "outboxed", "delayed"})


def zeros_of(counts: Iterable[Counts]) -> set[str]:
    """The columns with nothing but zeros."""
    known = [*counts]
    return {name for name in COLUMNS if not total(known, name)}


def needed_for(counts: Iterable[Counts]) -> dict[str, str]:
    """The columns without those of the rare ones that have nothing but zeros."""
    unneeded = zeros_of(counts) & RARE
    return {name: head for name, head in COLUMNS.items() if name not in unneeded}
