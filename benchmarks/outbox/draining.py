"""Whether a million rows are sent at a constant rate, in a constant memory."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sqlalchemy import create_engine

from tests.rabbitmq import RabbitMQNode

from ..results import Benchmark, Case, Job
from .arriving import new_watch, running
from .relays import OUR_TABLE, OURS, settle
from .servers import POSTGRESQL, new_database
from .shop import EXTERNAL, RELAY, environment

RATE, MEMORY = "events/s", "memory, MB"
ROWS, FEW = 1_000_000, 50_000
#: The parts of which each rate is measured.
TENTHS = tuple(f"{part}/10" for part in range(1, 11))


def case(rows: int) -> Case:
    return Case(f"{rows:,} rows".replace(",", " "), "")


def jobs(quick: bool) -> list[Job]:
    rows = FEW if quick else ROWS
    return [Job(case(rows), (OURS,), partial(drain, rows), steps=TENTHS, once=True)]


def drain(rows: int, node: RabbitMQNode) -> Mapping[str, Mapping[str, float]]:
    """The rate of each tenth, and the relay's memory at its end."""
    figures = {}
    with new_database(POSTGRESQL) as url, new_watch(node) as (queue, arrived):
        engine = create_engine(url)
        OUR_TABLE.create(engine)
        OUR_TABLE.fill(engine, queue, 1, rows)
        settle(engine)
        engine.dispose()
        ours = environment(url, node.url, EXTERNAL)
        with running(RELAY, environment=ours) as [relay]:
            done = arrived.wait_for_more(0, rows)
            began = time.perf_counter()
            for number, tenth in enumerate(TENTHS, 1):
                before, done = done, arrived.wait_until(number * rows // 10)
                ended = time.perf_counter()
                rate = (done - before) / (ended - began)
                figures[tenth] = {RATE: rate, MEMORY: memory_of(relay.pid) / 1e6}
                began = ended
                # So that the broker's memory stays the same.
                arrived.purge()
    return figures


def memory_of(process: int) -> int:
    """The resident memory in bytes; needs Linux."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


BENCHMARK = Benchmark(
    name="outbox-drain",
    title="Outbox: a backlog, tenth by tenth",
    baseline=OURS,
    units=(RATE, MEMORY),
    jobs=jobs,
)
