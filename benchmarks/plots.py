"""Draws each benchmark as an SVG file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .results import Benchmark, Key, Results, Spread, Unavailable

_MARKERS = "osD^vPX*<>"


def plot(benchmark: Benchmark, results: Results, folder: Path) -> None:
    """Draw a row for each unit, with a plot for each group of cases."""
    pyplot = load_pyplot()
    keys = list(results.of(benchmark.name))
    groups = list(dict.fromkeys(key.case.group for key in keys))
    units = [unit for unit in benchmark.units if any(k.unit == unit for k in keys)]
    size = (5 * len(groups) + 3, 3.8 * len(units))
    figure, axes = pyplot.subplots(
        len(units), len(groups), squeeze=False, figsize=size, layout="constrained"
    )
    names = list(dict.fromkeys(key.contestant for key in keys))
    styles = {name: _style(pyplot, number) for number, name in enumerate(names)}
    for row, unit in zip(axes, units, strict=True):
        for axis, group in zip(row, groups, strict=True):
            chosen = [k for k in keys if k.unit == unit and k.case.group == group]
            _draw(axis, chosen, results, styles)
            axis.set(title=group, ylabel=unit)
    lines = [pyplot.Line2D([], [], **style) for style in styles.values()]
    figure.legend(lines, names, loc="outside right upper", fontsize="small")
    about = {"Title": benchmark.title, "Date": None}
    figure.savefig(folder / f"{benchmark.name}.svg", metadata=about)
    pyplot.close(figure)


def _style(pyplot: Any, number: int) -> dict[str, Any]:
    return {
        "color": pyplot.get_cmap("tab20")(number % 20),
        "marker": _MARKERS[number % len(_MARKERS)],
        "markersize": 4,
        "linewidth": 1,
    }


def load_pyplot() -> Any:
    """:raises Unavailable: Matplotlib is not installed."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("svg")
        # The same figures give the same file; its text stays text.
        matplotlib.rcParams["svg.hashsalt"] = "benchmarks"
        matplotlib.rcParams["svg.fonttype"] = "none"
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise Unavailable("Matplotlib is not installed") from error


def _draw(axis: Any, keys: list[Key], results: Results, styles: dict[str, Any]) -> None:
    """A line for each contestant, from the lowest to the highest value of a round."""
    lines = {name: dict(_points(keys, name, results)) for name in styles}
    several = any(len(points) > 1 for points in lines.values())
    #: What has one value stands beside all others.
    levels = [name for name, points in lines.items() if several and len(points) == 1]
    places = list(
        dict.fromkeys(key.case.at for key in keys if key.contestant not in levels)
    )
    for number, (name, points) in enumerate(lines.items()):
        if name in levels:
            [spread] = points.values()
            axis.axhline(spread.median, **styles[name], linestyle="dashed")
        elif points:
            # Beside each other, where they would hide each other.
            shift = 0.04 * (number - len(lines) / 2)
            at = [places.index(place) + shift for place in points]
            _draw_line(axis, at, list(points.values()), styles[name])
    axis.set_xticks(range(len(places)), places, fontsize="small")
    axis.set_xlim(-0.5, len(places) - 0.5)
    _scale(axis, [value for key in keys for value in results.values[key]])


def _draw_line(axis: Any, at: list[float], spreads: list[Spread], style: Any) -> None:
    medians = [spread.median for spread in spreads]
    below = [spread.median - spread.low for spread in spreads]
    above = [spread.high - spread.median for spread in spreads]
    axis.errorbar(at, medians, yerr=[below, above], capsize=2, **style)


def _scale(axis: Any, values: list[float]) -> None:
    axis.grid(axis="y", alpha=0.3)
    if min(values) > 0 and max(values) / min(values) > 50:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)


def _points(
    keys: list[Key], contestant: str, results: Results
) -> Iterator[tuple[str, Spread]]:
    for key in keys:
        spread = results.spread(key)
        if key.contestant == contestant and spread is not None:
            yield key.case.at, spread
