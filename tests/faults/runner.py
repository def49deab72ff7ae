"""Runs rows one after the other, in each mode and with the naive baseline."""

from __future__ import annotations

import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.figures import Figures
from tests.faults.proxy import Proxy
from tests.faults.rig import BASELINES, Rig
from tests.faults.rows import Row
from tests.faults.state import Databases
from tests.rabbitmq import RabbitMQNode


@dataclass(frozen=True)
class Task:
    """Some runs of a row in one mode."""

    row: Row
    #: Where events are kept, or one of `BASELINES`.
    mode: str
    runs: int

    @property
    def is_baseline(self) -> bool:
        return self.mode in BASELINES

    def __str__(self) -> str:
        return f"row {self.row}, {self.mode}"


@dataclass(frozen=True)
class Result:
    """The result of a task."""

    task: Task
    figures: Figures
    #: The files of the apps, if a promise was broken.
    folder: Path | None = None
    #: Why it was not run; ``None``: it was.
    skipped: str | None = None

    @property
    def holds(self) -> bool:
        """Whether every promise was kept; the baseline promises nothing."""
        return self.task.is_baseline or not self.figures.broken

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        row = self.task.row
        return {
            "row": row.number,
            "fault": row.fault,
            "must_hold": row.holds,
            "mode": self.task.mode,
            "skipped": self.skipped,
            "holds": None if self.skipped else self.holds,
            "folder": str(self.folder) if self.folder else None,
            **self.figures.as_dict(),
        }


def plan(
    rows: Iterable[Row], modes: Iterable[str], runs: Callable[[Row], int]
) -> list[Task]:
    """Each row in each of the modes, some of which may be `BASELINES`."""
    modes = list(modes)
    return [Task(row, mode, runs(row)) for row in rows for mode in modes]


def run_all(
    node: RabbitMQNode, tasks: Iterable[Task], *, is_busy: bool = False
) -> Iterator[Result]:
    """Run the tasks on one node; if one of them fails, the next one is still run."""
    with Proxy(node.port) as proxy, Databases() as databases:
        for task in tasks:
            if why_not := task.row.why_not(task.mode):
                yield Result(task, Figures(), skipped=why_not)
                continue
            folder = Path(tempfile.mkdtemp(prefix="eventcollector-faults-"))
            rig = Rig(node, proxy, task.mode, databases, folder=folder, is_busy=is_busy)
            figures = _run(task, rig)
            result = Result(task, figures, folder)
            if result.holds:
                shutil.rmtree(folder, ignore_errors=True)
                result = Result(task, figures)
            yield result


def _run(task: Task, rig: Rig) -> Figures:
    try:
        return task.row.run(rig, task.runs)
    except Exception as error:
        assert rig.folder is not None
        (rig.folder / "traceback").write_text(traceback.format_exc())
        # A host's error has its whole log after the first line.
        words = next(iter(str(error).splitlines()), "")
        cut_short = f"it could not be finished: {type(error).__name__}: {words}"
        return Figures(runs=task.runs, broken=[cut_short])


@contextmanager
def running_node() -> Iterator[RabbitMQNode]:
    """A private node that is closed at the end of the block."""
    node = RabbitMQNode()
    try:
        node.start()
        yield node
    finally:
        node.close()
