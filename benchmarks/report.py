"""Shows the results of a run: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from .goals import Goal, goals
from .results import Benchmark, Case, Key, Results, Spread
from .rig import machine

#: The least width in characters of the tables.
_WIDTH = 130


@dataclass(frozen=True)
class Table:
    """The first columns of text, then figures."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 2

    def as_rich(self) -> RichTable:
        table = RichTable(title=self.title, title_justify="left")
        for number, header in enumerate(self.headers):
            table.add_column(header, justify="left" if number < self.texts else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def as_markdown(self) -> str:
        rule = ["---" if n < self.texts else "---:" for n in range(len(self.headers))]
        lines = [self.headers, rule, *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@dataclass(frozen=True)
class Report:
    """The results of a run, with what they depend on."""

    benchmarks: Sequence[Benchmark]
    results: Results
    version: str
    rounds: int
    quick: bool
    #: The average number of busy threads on the machine in the minute before.
    load: float
    #: The versions of the databases, by name.
    databases: Mapping[str, str] = field(default_factory=dict)

    def tables(self) -> Iterator[Table]:
        for benchmark in self.benchmarks:
            yield _table(benchmark, self.results)
        yield self.goals()

    def goals(self) -> Table:
        headers = ("figure", "goal", "measured", "reached")
        return Table("Goals", headers, list(self._goal_rows()), texts=1)

    def _goal_rows(self) -> Iterator[tuple[str, str, str, str]]:
        for goal in goals():
            measured = goal.figure(self.results)
            if measured is not None:
                yield self._goal_row(goal, measured)

    def _goal_row(self, goal: Goal, measured: Spread) -> tuple[str, str, str, str]:
        reached = goal.is_reached(measured, self.version)
        return goal.text, goal.bound(self.version), _spread_text(measured), reached

    def about(self) -> str:
        """Where, with what and how often it was measured."""
        here = machine()
        rounds = "one round" if self.rounds == 1 else f"medians of {self.rounds} rounds"
        form = ", the quick form" if self.quick else ""
        today = f"{date.today():%Y-%m-%d}"
        servers = {"RabbitMQ": self.version, **self.databases}
        return (
            f"{', '.join(f'{name} {servers[name]}' for name in servers)},"
            f" Python {here['python']}, {here['cores']} cores"
            f" ({here['processor']}, {here['system']}), {rounds}{form}, {today},"
            f" load average before it {self.load:.1f}"
        )

    def show(self) -> None:
        console = Console(width=max(Console().width, _WIDTH))
        console.print(self.about())
        for table in self.tables():
            console.print(table.as_rich())
        for name, why in self.results.skipped.items():
            console.print(f"left out: {name}, since {why}")

    def as_json(self) -> str:
        return json.dumps(self._document(), indent=1, ensure_ascii=False)

    def write_tables(self, folder: Path) -> None:
        """Write what a page of the docs includes, as Markdown."""
        *measured, goals = self.tables()
        sections = [f"**{table.title}**\n\n{table.as_markdown()}" for table in measured]
        (folder / "about.inc").write_text(f"{self.about()}.\n")
        (folder / "goals.inc").write_text(goals.as_markdown())
        (folder / "figures.inc").write_text("\n".join(sections))

    def _document(self) -> dict[str, Any]:
        return {
            "rabbitmq": self.version,
            "databases": self.databases,
            "machine": machine(),
            "date": date.today().isoformat(),
            "load": self.load,
            "rounds": self.rounds,
            "quick": self.quick,
            "skipped": self.results.skipped,
            "values": [
                {**key._asdict(), "case": key.case._asdict(), "values": values}
                for key, values in self.results.values.items()
            ],
            "goals": [
                {
                    **asdict(goal, dict_factory=_without_figure),
                    "measured": measured._asdict(),
                    "reached": goal.is_reached(measured, self.version),
                }
                for goal in goals()
                if (measured := goal.figure(self.results)) is not None
            ],
        }


def _without_figure(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if key != "figure"}


def _table(benchmark: Benchmark, results: Results) -> Table:
    keys = list(results.of(benchmark.name))
    units = list(dict.fromkeys(key.unit for key in keys))
    beside = f"beside {benchmark.baseline}"
    rows = [
        _row(benchmark, results, case, contestant, units)
        for case, contestant in dict.fromkeys(
            (key.case, key.contestant) for key in keys
        )
    ]
    return Table(benchmark.title, ["case", "contestant", *units, beside], rows)


def _row(
    benchmark: Benchmark,
    results: Results,
    case: Case,
    contestant: str,
    units: Sequence[str],
) -> list[str]:
    keys = [Key(benchmark.name, case, contestant, unit) for unit in units]
    cells = [_spread_text(results.spread(key)) for key in keys]
    return [str(case), contestant, *cells, _beside(benchmark, results, keys[0])]


def _beside(benchmark: Benchmark, results: Results, key: Key) -> str:
    """The ratio to the baseline of the same case, else the only one of the group."""
    baselines = [
        other
        for other in results.of(benchmark.name)
        if other.contestant == benchmark.baseline
        and (other.unit, other.case.group) == (key.unit, key.case.group)
    ]
    same = [other for other in baselines if other.case == key.case]
    beside = same or (baselines if len(baselines) == 1 else [])
    return _ratio_text(results.ratio(key, beside[0])) if beside else ""


def _spread_text(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{_number(spread.median)} ({_number(spread.low)}–{_number(spread.high)})"


def _ratio_text(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})"


def _number(value: float) -> str:
    """Three digits that count, or all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
