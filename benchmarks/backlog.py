"""What retained events cost, in time and memory, and how fast they are delivered."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.rabbitmq import RabbitMQNode

from .contestants import ours
from .results import Benchmark, Case, Job
from .retaining import DRAIN, MEMORY, UNIT_OF_WORK, total
from .rig import check_arrived, filled_queue
from .throughput import publish_in_threads

GROUP = "broker down"
STORES = ("memory", "spool")
THROUGHPUT = "throughput, 500 × 8"
#: Retained in both forms; only in the full form; delivered.
MANY, MOST, DRAINED = 100_000, 1_000_000, 50_000
#: Without a listener, which the library notices at once.
_UNREACHABLE = "amqp://127.0.0.1:1/"


def at(retained: int) -> str:
    return f"{retained:,}".replace(",", " ")


def jobs(quick: bool) -> list[Job]:
    kept = (0, MANY) if quick else (0, 10_000, MANY, MOST)
    found = [
        _job(retained, store, partial(_keep, store, retained))
        for retained in kept
        for store in STORES
    ]
    found += [
        _job(DRAINED, store, partial(keep_and_drain, store, DRAINED))
        for store in STORES
    ]
    found.append(_job(DRAINED, THROUGHPUT, partial(_throughput, DRAINED)))
    return sorted(found, key=lambda job: int(job.case.at.replace(" ", "")))


def _job(retained: int, contestant: str, run: partial[Mapping[str, float]]) -> Job:
    return Job.of_one(Case(GROUP, at(retained)), contestant, run)


def _keep(store: str, retained: int, _node: RabbitMQNode) -> Mapping[str, float]:
    with _keeping(_UNREACHABLE, "orders", retained, store) as process:
        return _answer(process)


def keep_and_drain(
    store: str, retained: int, node: RabbitMQNode
) -> Mapping[str, float]:
    queue = node.declare(f"benchmark.{store}")
    node.stop_app()
    try:
        with _keeping(node.url, queue, retained, store) as process:
            kept = _answer(process)
            node.start_app()
            drained = _answer(process, "deliver\n")
    finally:
        node.start_app()
    check_arrived(node, queue, total(retained))
    node.delete(queue)
    return {**kept, **drained}


def _throughput(events: int, node: RabbitMQNode) -> Mapping[str, float]:
    with filled_queue(node, "classic", events) as queue:
        seconds = publish_in_threads(ours(), node.url, queue, events, 500, 8)
        return {DRAIN: events / seconds}


@contextmanager
def _keeping(
    url: str, queue: str, retained: int, store: str
) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, since its memory is measured."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (url, queue, str(retained), store, f"{folder}/spool")
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.retaining", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # It logs that events are lost when it ends.
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


def _answer(process: subprocess.Popen[str], tell: str = "") -> Mapping[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(tell)
    process.stdin.flush()
    found: Mapping[str, float] = json.loads(process.stdout.readline())
    return found


BENCHMARK = Benchmark(
    name="backlog",
    title="Backlog: a unit of work with five events, by the number retained",
    baseline=STORES[0],
    units=(UNIT_OF_WORK, MEMORY, DRAIN),
    jobs=jobs,
)
