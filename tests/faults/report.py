"""The results of rows, for a terminal, for machines and for a page of the docs."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table

from flask_eventcollector.messages.wording import counted
from tests.faults.figures import Figures
from tests.faults.rows import EVERY_MODE
from tests.faults.runner import Result

COLUMNS = (
    *("row", "fault", "mode", "runs", "attempts", "acknowledged", "lost"),
    *("duplicated", "recovered", "unexpected", "failed", "slowest ms", "books"),
)
#: Columns that are texts, not numbers.
TEXTS = ("fault", "mode", "books")


@dataclass(frozen=True)
class Report:
    """The results of a run of the rig, with RabbitMQ's version."""

    rabbitmq: str
    results: Sequence[Result]

    @property
    def holds(self) -> bool:
        return all(result.holds for result in self.results)

    @property
    def lacks_workers(self) -> bool:
        """Whether a row was not run because its workers are not installed."""
        return any(r.skipped and r.task.row.missing(r.task.mode) for r in self.results)

    @property
    def verdict(self) -> str:
        """A summary in one line."""
        number = sum(bool(result.skipped) for result in self.results)
        skipped = f" {counted(number, 'task')} not run." if number else ""
        words = (
            "Every promise was kept." if self.holds else "Some promises were broken."
        )
        return f"{words}{skipped}"

    def as_json(self) -> str:
        """For machines."""
        results = [result.as_dict() for result in self.results]
        about = {"rabbitmq": self.rabbitmq, "python": platform.python_version()}
        return json.dumps({**about, "results": results}, indent=2)

    def as_table(self) -> Table:
        """For a terminal."""
        title = f"RabbitMQ {self.rabbitmq}"
        return _table(title, COLUMNS, _cells, _run(self.results))

    def as_state_table(self) -> Table:
        """The same about events and state; without rows if there is no state."""
        return _table(None, _STATE, _state_cells, _stateful(self.results))

    def as_markdown(self, older: str = "") -> str:
        """For a page of the docs, under its own heading.

        *older* has figures of the same versions. Those of rows and modes that were not
        run again are retained.
        """
        kept = _kept(older, self.results) if self._heading in older else {}
        return "\n".join(
            [
                self._heading,
                "",
                *_markdown_table(COLUMNS, map(_cells, _run(self.results)), kept),
                "",
                "The promise, the number of faults, and the library's own counts:",
                "",
                *_markdown_table(
                    _MORE, map(_more_cells, _promising(self.results)), kept
                ),
                *_state_tables(self.results, kept),
                *_markdown_list(_NOTES, measured(self.results), kept),
                *_markdown_list(_FAILURES, _failures(self.results), kept),
                *_markdown_list(_NOT_RUN, _not_run(self.results), kept),
            ]
        )

    @property
    def _heading(self) -> str:
        return (
            f"## RabbitMQ {self.rabbitmq}\n\n"
            f"With Python {platform.python_version()}, on {_machine()}."
        )

    def write_into(self, page: Path) -> None:
        """Write the figures into *page*, replacing older ones of the same broker.

        The rest of the page is unchanged. Older figures of the same versions are
        retained for rows that were not run again.
        """
        name = "RabbitMQ " + ".".join(self.rabbitmq.split(".")[:2])
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        text = page.read_text() if page.exists() else ""
        old = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", text, re.DOTALL)
        part = f"{begin}\n{self.as_markdown(old[0] if old else '')}\n{end}"
        if old:
            text = text[: old.start()] + part + text[old.end() :]
        else:
            text = f"{text.rstrip()}\n\n{part}\n".lstrip()
        page.write_text(text)


def _table(
    title: str | None,
    columns: Sequence[str],
    cells: Callable[[Result], list[str]],
    results: Iterable[Result],
) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD)
    for column in columns:
        justify: JustifyMethod = "left" if column in TEXTS else "right"
        table.add_column(column, justify=justify, no_wrap=column != "fault")
    for result in results:
        table.add_row(*cells(result), style=None if result.holds else "bold red")
    return table


def problems(result: Result) -> list[str]:
    """Why it was not run, or which promises were broken, and where the logs are."""
    if result.skipped:
        return [_skipped(result)]
    if result.holds:
        return []
    where = [f"logs: {result.folder}"] if result.folder else []
    lines = [*result.figures.broken, *where]
    return [f"{result.task}: {line}" for line in lines]


def _skipped(result: Result) -> str:
    return f"{result.task}: not run, {result.skipped}"


def _run(results: Iterable[Result]) -> list[Result]:
    return [result for result in results if not result.skipped]


def _cells(result: Result) -> list[str]:
    found, task = result.figures, result.task
    counts = (
        *(found.runs, found.attempts, found.acknowledged, found.lost),
        *(found.duplicated, found.recovered, found.unexpected, found.failed),
    )
    return [
        *(str(task.row.number), task.row.fault, task.mode),
        *map(str, counts),
        f"{1000 * found.slowest:.0f}",
        _books(result),
    ]


def _books(result: Result) -> str:
    if result.task.is_baseline:
        return "none"
    return "balanced" if result.figures.balanced else "NOT BALANCED"


_MORE = (
    *("row", "fault", "mode", "promise", "faults", "confirmed", "dropped", "dead"),
    *("may be lost", "p99 increase, ms", "seconds", "kept"),
)


def _more_cells(result: Result) -> list[str]:
    found, task = result.figures, result.task
    counts = (
        *(found.hits, found.confirmed, found.dropped, found.dead),
        found.may_be_lost,
    )
    return [
        *(str(task.row.number), task.row.fault, task.mode, task.row.holds),
        *map(str, counts),
        _longer(found),
        f"{found.seconds:.0f}",
        "yes" if result.holds else "**NO**",
    ]


def _longer(found: Figures) -> str:
    longer = found.median_longer
    return "" if longer is None else f"{1000 * longer:.0f}"


def _promising(results: Iterable[Result]) -> list[Result]:
    return [result for result in _run(results) if not result.task.is_baseline]


_STATE = (
    *("row", "fault", "mode", "committed", "ghosts", "zombies", "lost"),
    *("duplicated", "unmarked", "lost leases", "longest stuck, s", "lease, s"),
)


def _state_tables(
    results: Iterable[Result], kept: Mapping[str, list[str]]
) -> list[str]:
    """The table about events and state, if there is any state."""
    table = _markdown_table(_STATE, map(_state_cells, _stateful(results)), kept)
    words = "With an outbox: the events, compared with the state that is committed:"
    return ["", words, "", *table] if table[2:] else []


def _state_cells(result: Result) -> list[str]:
    found, task = result.figures, result.task
    counts = (
        *(found.committed, found.ghosts, found.zombies, found.lost),
        *(found.duplicated, found.unmarked, found.lost_leases),
    )
    stuck = (f"{found.stuck:.1f}", f"{found.lease:.0f}") if found.lease else ("", "")
    row = (str(task.row.number), task.row.fault, task.mode)
    return [*row, *map(str, counts), *stuck]


def _stateful(results: Iterable[Result]) -> list[Result]:
    return [result for result in _run(results) if result.figures.committed]


_NOTES, _FAILURES, _NOT_RUN = "Measured:", "Not kept:", "Not run:"


def measured(results: Iterable[Result]) -> list[str]:
    """What rows have measured besides their figures."""
    return [
        f"- {result.task}: {note}"
        for result in results
        for note in result.figures.notes
    ]


def _failures(results: Iterable[Result]) -> list[str]:
    return [
        f"- {result.task}: {line}"
        for result in results
        if not result.holds
        for line in result.figures.broken
    ]


def _not_run(results: Iterable[Result]) -> list[str]:
    return [f"- {_skipped(result)}" for result in results if result.skipped]


#: A line about one row in one mode, in a table or in a list.
_LINE = re.compile(r"\| (?P<row>\d+) \| [^|]* \| (?P<mode>[\w-]+) \|")
_ITEM = re.compile(r"- row (?P<row>\d+) .*?, (?P<mode>[\w-]+): ")


def _about(line: str) -> tuple[int, int] | None:
    """The row and the mode that *line* is about, to sort by."""
    found = _LINE.match(line) or _ITEM.match(line)
    return found and (int(found["row"]), EVERY_MODE.index(found["mode"]))


def _kept(older: str, results: Iterable[Result]) -> dict[str, list[str]]:
    """The lines of *older* about other rows or modes, by the heading above them."""
    new = {(r.task.row.number, EVERY_MODE.index(r.task.mode)) for r in results}
    kept: dict[str, list[str]] = {}
    title = ""
    for line in older.splitlines():
        about = _about(line)
        if about is None:
            title = line if line and not line.startswith("| ---") else title
        elif about not in new:
            kept.setdefault(title, []).append(line)
    return kept


def _markdown_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    kept: Mapping[str, list[str]],
) -> list[str]:
    texts = (*TEXTS, "promise", "kept")
    rule = ["---" if column in texts else "---:" for column in columns]
    head, under, *lines = (
        f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows)
    )
    return [head, under, *_sorted(lines + kept.get(head, []))]


def _markdown_list(
    title: str, lines: list[str], kept: Mapping[str, list[str]]
) -> list[str]:
    lines = _sorted(lines + kept.get(title, []))
    return ["", title, "", *lines] if lines else []


def _sorted(lines: list[str]) -> list[str]:
    return sorted(lines, key=lambda line: _about(line) or ())


def _machine() -> str:
    return f"{platform.system()} with {os.cpu_count()} cores"
