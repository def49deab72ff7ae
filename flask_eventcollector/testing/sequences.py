"""Which events stand in the order that a test expects."""

from __future__ import annotations

from collections.abc import Sequence

from .captured import CapturedEvent
from .expected import Wanted


def longest_subsequence(
    wanted: Sequence[Wanted], events: Sequence[CapturedEvent]
) -> list[CapturedEvent]:
    """The events that fit *wanted* one after the other, as far as there are any."""
    found: list[CapturedEvent] = []
    for event in events:
        if len(found) < len(wanted) and wanted[len(found)].fits(event):
            found.append(event)
    return found


def longest_run(
    wanted: Sequence[Wanted], events: Sequence[CapturedEvent]
) -> list[CapturedEvent]:
    """The longest run of neighbours that fits the beginning of *wanted*."""
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
