"""Inject each fault of the matrix, and print what was lost.

    python -m tests.faults                           every row, in its short form
    python -m tests.faults --rows 1,4,9 --baseline   some, also with the naive ones
    python -m tests.faults --rest                    what the test suite omits
    python -m tests.faults --long --report docs/faults.md
    python -m tests.faults soak --minutes 5 --seed 7  random faults, repeatable

This starts a private RabbitMQ node; $RABBITMQ_BIN selects its version. The exit code is
1 if a promise was broken or, with CI set, if a row's workers are not installed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from tests.faults.matrix import ELSEWHERE, ROWS, rest
from tests.faults.report import Report, measured, problems
from tests.faults.rig import BASELINES, MODES
from tests.faults.rows import Row
from tests.faults.runner import Result, Task, plan, run_all, running_node
from tests.faults.soak import plan as soak_plan
from tests.faults.soak import soak, strokes_in
from tests.rabbitmq import RabbitMQNode

#: The width in characters that the table needs.
WIDTH = 150

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    with running_node() as node:
        # CI runs the rest, perhaps beside other work.
        results = _run(node, _plan(options), is_busy=options.rest)
        report = Report(node.version, results)
    if options.report:
        report.write_into(options.report)
    if options.json:
        sys.stdout.write(report.as_json() + "\n")
    else:
        _show(report)
    if os.environ.get("CI") and report.lacks_workers:
        return 1
    return 0 if report.holds else 1


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "what", nargs="?", choices=["rows", "soak"], default="rows", help="rows"
    )
    options.add_argument(
        "--minutes", type=float, default=5.0, help="of a soak; default: 5"
    )
    options.add_argument("--seed", type=int, help="of a soak; default: random")
    which = options.add_mutually_exclusive_group()
    which.add_argument(
        "--rows", type=_rows, default=_all_rows(), help="by number, for example 1,4,9"
    )
    which.add_argument(
        "--rest",
        action="store_true",
        help="all rows and modes that the test suite omits",
    )
    options.add_argument(
        "--mode",
        type=_modes,
        default=["memory"],
        help=f"some of {', '.join(MODES)}, or all; default: memory",
    )
    often = options.add_mutually_exclusive_group()
    often.add_argument("--runs", type=_positive, help="the number of runs per row")
    often.add_argument("--long", action="store_true", help="the long form of each row")
    options.add_argument(
        "--baseline", action="store_true", help="also run the naive ones"
    )
    options.add_argument("--json", action="store_true", help="write JSON")
    options.add_argument(
        "--report", type=Path, metavar="FILE", help="a Markdown page to update"
    )
    return options


def _rows(words: str) -> list[Row]:
    try:
        return [_row(int(word)) for word in words.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{words!r} is not a list of rows, for example 1,4,9"
        ) from None


def _modes(words: str) -> list[str]:
    if words == "all":
        return [*MODES]
    for word in (modes := words.split(",")):
        if word not in MODES:
            raise argparse.ArgumentTypeError(
                f"there is no mode {word}; there are {', '.join(MODES)}"
            )
    return modes


def _row(number: int) -> Row:
    if number in ROWS:
        return ROWS[number]
    if where := ELSEWHERE.get(number):
        raise argparse.ArgumentTypeError(f"row {number} is tested by {where}")
    raise argparse.ArgumentTypeError(
        f"there is no row {number}; there are {', '.join(map(str, sorted(ROWS)))}"
    )


def _all_rows() -> list[Row]:
    return [ROWS[number] for number in sorted(ROWS)]


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be 1 or more")
    return number


def _plan(options: argparse.Namespace) -> list[Task]:
    modes = options.mode
    if options.what == "soak":
        return _plan_soak(options, modes)
    if options.rest:
        often = _runs(options)
        return [Task(row, mode, often(row)) for row, mode in rest()]
    if options.baseline:
        modes = [*modes, *BASELINES]
    tasks = plan(options.rows, modes, _runs(options))
    # If there are several, a row need not be for each.
    some = len(modes) > 1
    return [task for task in tasks if not some or task.mode in task.row.modes]


def _plan_soak(options: argparse.Namespace, modes: list[str]) -> list[Task]:
    seed = random.randrange(10_000) if options.seed is None else options.seed
    strokes = strokes_in(options.minutes)
    console.print(f"The seed is {seed}; its faults:")
    for stroke in soak_plan(seed, strokes):
        console.print(f"  {stroke}", highlight=False)
    return plan([soak(seed)], modes, lambda row: strokes)


def _runs(options: argparse.Namespace) -> Callable[[Row], int]:
    if options.runs:
        return lambda row: int(options.runs)
    return lambda row: row.long if options.long else row.short


def _run(node: RabbitMQNode, tasks: Sequence[Task], *, is_busy: bool) -> list[Result]:
    """Run all tasks, with a progress bar and the problems on stderr."""
    results = []
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        whole = bar.add_task("", total=sum(task.runs for task in tasks))
        found = run_all(node, tasks, is_busy=is_busy)
        for task in tasks:
            bar.update(whole, description=str(task))
            results.append(next(found))
            bar.advance(whole, task.runs)
            if not console.is_terminal and not results[-1].skipped:
                seconds = results[-1].figures.seconds
                console.print(f"{task}: {seconds:.1f} s", highlight=False)
            for line in problems(results[-1]):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    return results


def _show(report: Report) -> None:
    # A narrower table would be unreadable; a narrow terminal wraps its lines.
    out = Console(width=max(WIDTH, Console().width))
    out.print(report.as_table())
    if (state := report.as_state_table()).row_count:
        out.print(state)
    for line in measured(report.results):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    out.print(report.verdict)


if __name__ == "__main__":
    sys.exit(main())
