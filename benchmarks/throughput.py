"""Confirmed events per second, by batch size, threads and type of queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

from tests.rabbitmq import RabbitMQNode

from . import contestants
from .contestants import Contestant, Pipeline
from .results import Benchmark, Case, Job
from .rig import filled_queue

UNIT = "events/s"
#: Events in a batch, and threads.
SHAPES = tuple((batch, threads) for batch in (500, 20, 5) for threads in (1, 8))
#: A peer that pipelines by itself has no shape.
ONE_STREAM = "one stream"

OURS, OURS_LATER = "ours", "ours, not waiting"
FLOOR, FLOOR_LATER = "floor in Python", "floor in Python, not waiting"
BARE, LIMIT = "bare sockets", "limit"
NODE, BLOCKING = "amqp-connection-manager", "pika, confirm each"

IN_SHAPES: dict[str, Contestant] = {
    OURS: contestants.ours(),
    OURS_LATER: contestants.ours(CONFIRM_TIMEOUT=0),
    "ours, spool, not waiting": contestants.ours(CONFIRM_TIMEOUT=0, BACKLOG="spool"),
    BARE: contestants.bare_sockets,
    FLOOR: contestants.floor(waiting=True),
    FLOOR_LATER: contestants.floor(waiting=False),
}
#: What confirms each event takes no notice of batches.
CONFIRMING_EACH: dict[str, Contestant] = {
    BLOCKING: contestants.blocking_connections,
    "kombu, confirm each": contestants.kombu,
}
#: With what the number of events is divided by: the slow ones would take too long.
STREAMS: dict[str, tuple[Pipeline, int]] = {
    LIMIT: (contestants.limit, 1),
    NODE: (contestants.amqp_connection_manager, 1),
    "aio-pika, gathered": (contestants.aio_pika, 4),
    "pika's SelectConnection": (contestants.select_connection, 2),
}


def shape(batch: int, threads: int) -> str:
    return f"{batch} × {threads}"


def group(kind: str) -> str:
    return f"{kind} queue"


def jobs(quick: bool) -> list[Job]:
    events = 4000 if quick else 20_000
    found = jobs_for("classic", events, SHAPES)
    return found + jobs_for("quorum", events, SHAPES[1:4:2] if quick else SHAPES)


def jobs_for(kind: str, events: int, shapes: Sequence[tuple[int, int]]) -> list[Job]:
    """The jobs of all contestants, with queues of one type."""
    return (
        [
            Job.of_one(
                Case(group(kind), ONE_STREAM),
                name,
                partial(_stream, run, kind, events // n),
            )
            for name, (run, n) in STREAMS.items()
        ]
        + [
            Job.of_one(
                Case(group(kind), shape(1, threads)),
                name,
                partial(_in_threads, run, kind, events // 8, 1, threads),
            )
            for name, run in CONFIRMING_EACH.items()
            for threads in (1, 8)
        ]
        + [
            Job.of_one(
                Case(group(kind), shape(batch, threads)),
                name,
                partial(_in_threads, run, kind, events, batch, threads),
            )
            for batch, threads in shapes
            for name, run in IN_SHAPES.items()
        ]
    )


def _stream(
    run: Pipeline, kind: str, events: int, node: RabbitMQNode
) -> Mapping[str, float]:
    with filled_queue(node, kind, events) as queue:
        return {UNIT: events / run(node.url, queue, events)}


def _in_threads(
    run: Contestant,
    kind: str,
    events: int,
    batch: int,
    threads: int,
    node: RabbitMQNode,
) -> Mapping[str, float]:
    with filled_queue(node, kind, events) as queue:
        seconds = publish_in_threads(run, node.url, queue, events, batch, threads)
        return {UNIT: events / seconds}


def publish_in_threads(
    run: Contestant, url: str, queue: str, events: int, batch: int, threads: int
) -> float:
    """Publish from all threads; return the seconds until all is confirmed."""
    batches: SimpleQueue[int] = SimpleQueue()
    for done in range(0, events, batch):
        batches.put(min(batch, events - done))
    start = threading.Barrier(threads + 1, timeout=30)

    with run(url, queue) as session, ThreadPoolExecutor(threads) as pool:

        def work() -> None:
            publish = session.sender()
            start.wait()
            with suppress(Empty):
                while True:
                    publish(batches.get_nowait())

        working = [pool.submit(work) for _ in range(threads)]
        start.wait()
        began = time.perf_counter()
        for one in working:
            one.result()
        session.finish()
        return time.perf_counter() - began


BENCHMARK = Benchmark(
    name="throughput",
    title="Throughput: confirmed events of 256 bytes, by batch × threads",
    baseline=LIMIT,
    units=(UNIT,),
    jobs=jobs,
)
