"""What ``flask events verify`` shows."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

import click

from ..verifying.report import Figures, as_rows, verdict
from ..verifying.run import Plan, Progress
from . import formatting

#: Seconds between two lines, on a terminal and elsewhere.
_REDRAW, _LINE = 0.5, 10.0


class Output:
    """Shows how far a run is: one line that changes, or a line now and then."""

    def __init__(self, plan: Plan) -> None:
        self._of = _clock(plan.seconds)
        self._is_terminal = sys.stderr.isatty()
        self._every = _REDRAW if self._is_terminal else _LINE
        self._next = 0.0
        self._is_open = False

    def show(self, progress: Progress) -> None:
        """Show it, if the last line is old."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        line = self._line(progress)
        if self._is_terminal:
            # A line that is longer than the terminal could not be replaced.
            line = line[: shutil.get_terminal_size().columns - 1]
            click.echo(f"\r{line}\033[K", err=True, nl=False)
            self._is_open = True
        else:
            click.echo(line, err=True)

    def warn(self, text: str) -> None:
        """Show a warning on a line of its own."""
        self.clear()
        click.echo(formatting.printable(text), err=True)

    def clear(self) -> None:
        """Remove the line that changes."""
        if self._is_open:
            click.echo("\r\033[K", err=True, nl=False)
            self._is_open = False

    def _line(self, progress: Progress) -> str:
        parts = [
            f"{_clock(progress.elapsed)} of {self._of}",
            formatting.count(progress.requests, "request"),
            f"{formatting.events(progress.acknowledged)} acknowledged",
            formatting.count(progress.strokes, "stroke"),
            progress.doing,
        ]
        return "  ".join(parts)


def show_report(plan: Plan, broker: str, figures: Figures) -> None:
    """Show what a run has shown, for people."""
    backlog = "the spool" if plan.backlog == "spool" else "a backlog in memory"
    workers = formatting.count(plan.workers, "worker")
    click.echo(
        f"{formatting.printable(broker)}, {workers} with {backlog},"
        f" {_clock(figures.lasted)} minutes, seed {plan.seed}\n"
    )
    for line in formatting.table(("", "", ""), as_rows(figures), right=[1])[1:]:
        click.echo(line)
    click.echo(f"\n{verdict(figures)}")


def report_as_json(plan: Plan, broker: str, figures: Figures) -> dict[str, Any]:
    """What a run has shown, for machines."""
    return {
        "kept": figures.is_kept,
        "broker": broker,
        "backlog": plan.backlog,
        "workers": plan.workers,
        "rate": plan.rate,
        "seconds": plan.seconds,
        "seed": plan.seed,
        **figures.as_dict(),
    }


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
