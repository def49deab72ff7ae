"""Matches events against an expected order."""

from __future__ import annotations

from collections.abc import Sequence

from .captured import CapturedEvent
from .expected import Wanted


def longest_subsequence(
    wanted: Sequence[Wanted], events: Sequence[CapturedEvent]
) -> list[CapturedEvent]:
    """The events that match *wanted* in order, up to the first without a match."""
    found: list[CapturedEvent] = []
    for event in events:
        if len(found) < len(wanted) and wanted[len(found)].fits(event):
            found.append(event)
    return found


def longest_run(
    wanted: Sequence[Wanted], events: Sequence[CapturedEvent]
) -> list[CapturedEvent]:
    """The longest run of consecutive events that matches the start of *wanted*."""
    runs = [_run(wanted, events[start:]) for start in range(len(events))]
    return max(runs, key=len, default=[])


def _run(
    wanted: Sequence[Wanted], events: Sequence[CapturedEvent]
) -> list[CapturedEvent]:
    found: list[CapturedEvent] = []
    for want, event in zip(wanted, events, strict=False):
        if not want.fits(event):
            break
        found.append(event)
    return found
