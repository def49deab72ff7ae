"""Draws the samples of the books as paths of an SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ..monitoring.samples import Sample

#: The size of a picture, in its own units.
WIDTH, HEIGHT = 600, 100
#: In seconds: how long ago a picture may begin.
_SPANS = (120, 600, 1800, 3600)

Point = tuple[float, float]


class Line(NamedTuple):
    """One line of a picture."""

    name: str
    #: The data of SVG paths: of the line, and of the area below it; ``""``: too few
    #: points.
    path: str
    area: str
    now: float


class Chart(NamedTuple):
    """One picture."""

    title: str
    lines: Sequence[Line]
    #: The value at its top.
    highest: float
    #: How many seconds it spans.
    span: int


def charts(samples: Sequence[Sample], latest: Sample) -> list[Chart]:
    """What waits, and what is confirmed a second, until now, which is the *latest*."""
    now, until_now = latest.at, [*samples, latest]
    age = now - until_now[0].at
    span = next((span for span in _SPANS if age <= span), _SPANS[-1])
    waiting = [(s.at, float(s.waiting)) for s in until_now]
    dead = [(s.at, float(s.dead)) for s in until_now]
    lines = {"waiting": waiting, "dead": dead}
    return [
        _chart("Waiting and dead", lines, now, span),
        _chart("Confirmed per second", {"confirmed": _rates(samples)}, now, span),
    ]


def _rates(samples: Sequence[Sample]) -> list[Point]:
    return [
        # When a process ends, what it has counted is gone.
        (b.at, max(0.0, (b.confirmed - a.confirmed) / max(b.at - a.at, 0.001)))
        for a, b in pairwise(samples)
    ]


def _chart(title: str, lines: dict[str, list[Point]], now: float, span: int) -> Chart:
    shown = {
        name: [point for point in points if point[0] >= now - span]
        for name, points in lines.items()
    }
    values = [value for points in shown.values() for _, value in points]
    highest = max(values, default=0.0)
    drawn = [_line(name, shown[name], now, span, highest or 1.0) for name in shown]
    return Chart(title, drawn, highest, span)


def _line(
    name: str, points: list[Point], now: float, span: int, highest: float
) -> Line:
    latest = points[-1][1] if points else 0.0
    if len(points) < 2:
        return Line(name, "", "", latest)
    placed = [
        (WIDTH * (1 - (now - at) / span), HEIGHT * (1 - value / highest))
        for at, value in points
    ]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
    left, right = placed[0][0], placed[-1][0]
    area = f"{path}L{right:.1f} {HEIGHT}L{left:.1f} {HEIGHT}Z"
    return Line(name, path, area, latest)
