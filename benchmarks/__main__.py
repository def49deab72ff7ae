"""Measure the library beside its peers, and beside what is possible at best.

    python -m benchmarks                      all of them, in three rounds
    python -m benchmarks --quick              fewer cases: three to four minutes
    python -m benchmarks --only throughput --rounds 5
    python -m benchmarks --json FILE --plots FOLDER

Each benchmark starts a private RabbitMQ node; $RABBITMQ_BIN selects its version. The
contestants take turns, and the figures are medians of the rounds. Compare only figures
of the same run: broker, publishers and load share the cores of the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from tests.rabbitmq import RabbitMQNode

from . import (
    backlog,
    enqueue_cost,
    metrics_cost,
    outage_cost,
    request_cost,
    start_up,
    throughput,
)
from .outbox import draining, holding, latency, relays, servers, transactions
from .plots import load_pyplot, plot
from .report import Report
from .results import Benchmark, Job, Key, Results, Unavailable, turns
from .rig import private_broker

BENCHMARKS = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (
        throughput,
        request_cost,
        metrics_cost,
        outage_cost,
        enqueue_cost,
        backlog,
        start_up,
        relays,
        latency,
        transactions,
        draining,
        holding,
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.plots:
        try:
            load_pyplot()
        except Unavailable as error:
            parser().error(f"--plots: {error}; pip install --group benchmarks")
    benchmarks = chosen(options.only)
    report = measure(
        benchmarks, options.rounds or (1 if options.quick else 3), options.quick
    )
    report.show()
    if options.json:
        options.json.write_text(report.as_json() + "\n")
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        report.write_tables(options.plots)
        for benchmark in benchmarks:
            plot(benchmark, report.results, options.plots)
    return 0


def chosen(names: Sequence[str] | None) -> list[Benchmark]:
    """The benchmarks of these names; ``None``: all.

    A name stands for those that begin with it, too.
    """
    return [
        benchmark
        for name, benchmark in BENCHMARKS.items()
        if names is None or any(f"{name}-".startswith(f"{one}-") for one in names)
    ]


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--only",
        action="append",
        choices=[*BENCHMARKS],
        metavar="NAME",
        help=f"one of {', '.join(BENCHMARKS)}; outbox includes those that begin with"
        " it; may be repeated",
    )
    options.add_argument("--quick", action="store_true", help="fewer events and cases")
    options.add_argument("--rounds", type=int, help="default: 3; with --quick: 1")
    options.add_argument("--json", type=Path, metavar="FILE", help="write all values")
    options.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="write SVG plots, and the tables"
    )
    return options


def measure(benchmarks: Sequence[Benchmark], rounds: int, quick: bool) -> Report:
    results, (load, *_) = Results(), os.getloadavg()
    jobs = {benchmark.name: benchmark.jobs(quick) for benchmark in benchmarks}
    version = ""
    with Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        total = sum(len(turns(own, rounds)) for own in jobs.values())
        task = progress.add_task("starting", total=total)

        def show(what: str) -> None:
            progress.update(task, description=what, advance=1)

        for benchmark in benchmarks:
            own = jobs[benchmark.name]
            version = run_rounds(benchmark.name, own, rounds, results, show)
    databases = dict(servers.versions)
    return Report(benchmarks, results, version, rounds, quick, load, databases)


def run_rounds(
    name: str,
    jobs: Sequence[Job],
    rounds: int,
    results: Results,
    show: Callable[[str], None],
) -> str:
    """Let the contestants take turns; return the broker's version."""
    with private_broker() as node:
        for job in turns(jobs, rounds):
            show(f"{name}: {job}")
            if not job.names & results.skipped.keys():
                run_job(name, job, node, results)
        return node.version


def run_job(name: str, job: Job, node: RabbitMQNode, results: Results) -> None:
    try:
        measured = job.run(node)
    except Unavailable as error:
        results.skipped |= dict.fromkeys(job.names, str(error))
        return
    for place, values in measured.items():
        for unit, value in values.items():
            results.add(Key(name, *job.places[place], unit), value)


if __name__ == "__main__":
    sys.exit(main())
