"""Explains to pytest why captured events differ from the expectation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .captured import CapturedEvent, CapturedEvents
from .expected import ExpectedEvent
from .explaining import at, difference_lines


def explain_comparison(op: str, left: Any, right: Any) -> list[str] | None:
    """The lines for a failed ``left op right``; ``None``: no events are compared."""
    if op == "==" and isinstance(left, CapturedEvents) and isinstance(right, list):
        return ["captured events == expected", *_compared(left, right)]
    if op == "==" and isinstance(right, CapturedEvents) and isinstance(left, list):
        return ["expected == captured events", *_compared(right, left)]
    if op == "in" and isinstance(right, CapturedEvents):
        return [f"{left!r} in captured events", *_rivals(right, left)]
    return None


def _compared(found: Sequence[CapturedEvent], expected: Sequence[Any]) -> Iterator[str]:
    """A line-by-line comparison, without the common start and end."""
    before = _agreeing(found, expected)
    after = _agreeing(found[before:][::-1], expected[before:][::-1])
    if before:
        yield f"the first {_fit(before)}"
    middle_found = found[before : len(found) - after]
    middle_expected = expected[before : len(expected) - after]
    for index in range(max(len(middle_found), len(middle_expected))):
        yield from _pair(middle_found[index:], middle_expected[index:], before + index)
    if after:
        yield f"the last {_fit(after)}"


def _rivals(found: Sequence[CapturedEvent], expected: Any) -> Iterator[str]:
    """Each captured event, with its differences."""
    for event in found:
        yield _shown([event])
        yield from _differences(event, expected)


def _agreeing(found: Sequence[CapturedEvent], expected: Sequence[Any]) -> int:
    pairs = zip(found, expected, strict=False)
    for count, (event, other) in enumerate(pairs):
        if event != other:
            return count
    return min(len(found), len(expected))


def _pair(
    found: Sequence[CapturedEvent], expected: Sequence[Any], place: int
) -> Iterator[str]:
    if expected:
        yield f"[{place}] expected {expected[0]!r}"
    else:
        yield f"[{place}] expected no more"
    yield f"{' ' * len(f'[{place}]')} found    {_shown(found)}"
    if found and expected:
        yield from _differences(found[0], expected[0])


def _fit(count: int) -> str:
    return "matches" if count == 1 else f"{count} match"


def _shown(found: Sequence[CapturedEvent]) -> str:
    return f"{found[0]!r}{at(found[0])}" if found else "no more"


def _differences(event: CapturedEvent, expected: Any) -> Iterator[str]:
    if not isinstance(expected, ExpectedEvent):
        return
    wanted = expected.against(event.medium)
    if wanted.is_for(event):
        yield from (f"  {line}" for line in difference_lines(wanted, event))
