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
    figure, axes = pyplot.subplots(
        len(units),
        len(groups),
        squeeze=False,
        figsize=(4.5 * len(groups) + 2.5, 3.8 * len(units)),
        layout="constrained",
    )
    figure.suptitle(benchmark.title)
    for row, unit in zip(axes, units, strict=True):
        for axis, group in zip(row, groups, strict=True):
            chosen = [k for k in keys if k.unit == unit and k.case.group == group]
            _draw(axis, chosen, results)
            axis.set(title=group, ylabel=unit)
    figure.savefig(folder / f"{benchmark.name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def load_pyplot() -> Any:
    """:raises Unavailable: Matplotlib is not installed."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("svg")
        # The same figures give the same file.
        matplotlib.rcParams["svg.hashsalt"] = "benchmarks"
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise Unavailable("Matplotlib is not installed") from error


def _draw(axis: Any, keys: list[Key], results: Results) -> None:
    """A line for each contestant, from the lowest to the highest value of a round."""
    places = list(dict.fromkeys(key.case.at for key in keys))
    names = list(dict.fromkeys(key.contestant for key in keys))
    for number, name in enumerate(names):
        points = list(_points(keys, name, results))
        # Beside each other, where they would hide each other.
        shift = 0.04 * (number - len(names) / 2)
        axis.errorbar(
            [places.index(at) + shift for at, _ in points],
            [spread.median for _, spread in points],
            yerr=[
                [spread.median - spread.low for _, spread in points],
                [spread.high - spread.median for _, spread in points],
            ],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linewidth=1,
            capsize=2,
            label=name,
        )
    axis.set_xticks(range(len(places)), places)
    axis.legend(fontsize="x-small")
    axis.grid(axis="y", alpha=0.3)
    if _is_wide([value for key in keys for value in results.values[key]]):
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


def _is_wide(values: list[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) > 50
