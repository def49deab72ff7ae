"""How long it takes to import the library, and to have a first event confirmed."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tests.rabbitmq import RabbitMQNode

from .first_event import FIRST, OURS
from .results import Benchmark, Case, Job
from .rig import filled_queue

UNIT = "ms"
BOTH = "Flask and pika"
#: The library imports the other two.
IMPORTS = {
    BOTH: "import flask, pika",
    "Flask": "import flask",
    "pika": "import pika",
    OURS: "from flask_eventcollector import EventCollector",
}
_TIMED = """
import time
began = time.perf_counter()
{}
print(time.perf_counter() - began)
"""


def jobs(quick: bool) -> list[Job]:
    times = 3 if quick else 15
    return [
        Job.of_one(Case("import", ""), name, partial(_import, statement, times))
        for name, statement in IMPORTS.items()
    ] + [
        Job.of_one(
            Case("first confirmed event", ""), name, partial(_first, name, times)
        )
        for name in FIRST
    ]


def _import(statement: str, times: int, _node: RabbitMQNode) -> Mapping[str, float]:
    return _median(times, "-c", _TIMED.format(statement))


def _first(name: str, times: int, node: RabbitMQNode) -> Mapping[str, float]:
    with filled_queue(node, "classic", times) as queue:
        return _median(times, "-m", "benchmarks.first_event", name, node.url, queue)


def _median(times: int, *arguments: str) -> Mapping[str, float]:
    """The median of what new interpreters print, which are seconds."""
    seconds = [
        float(
            subprocess.check_output(
                [sys.executable, *arguments], cwd=Path(__file__).parent.parent
            )
        )
        for _ in range(times)
    ]
    return {UNIT: 1e3 * statistics.median(seconds)}


BENCHMARK = Benchmark(
    name="start-up",
    title="Start-up: import, and the first confirmed event",
    baseline=BOTH,
    units=(UNIT,),
    jobs=jobs,
)
