"""Whether a transaction that stays open, and keeps dead rows, slows the relay down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from sqlalchemy import Engine, create_engine

from tests.rabbitmq import RabbitMQNode

from ..results import Benchmark, Case, Job
from .arriving import Watch, new_watch, running
from .relays import OUR_TABLE, OURS, settle
from .servers import POSTGRESQL, new_database
from .shop import EXTERNAL, RELAY, environment

RATE = "events/s"
GROUP = "a transaction stays open, with 1 000 events/s"
#: Seconds after which the rate of a burst is measured.
TIMES, FEW_TIMES = (0, 60, 120, 180), (0, 10)
#: Events in a burst, a second, and in a transaction between the bursts.
_BURST, _RATE, _SOME = 10_000, 1000, 100
#: Of so many bursts, the median counts.
_BURSTS = 5


def at(seconds: int) -> str:
    return f"{seconds} s"


def jobs(quick: bool) -> list[Job]:
    times = FEW_TIMES if quick else TIMES
    steps = tuple(map(at, times))
    return [Job(Case(GROUP, ""), (OURS,), partial(hold, times), steps=steps, once=True)]


def hold(
    times: tuple[int, ...], node: RabbitMQNode, burst: int = _BURST
) -> Mapping[str, Mapping[str, float]]:
    """The rates of bursts, while an old snapshot keeps all dead rows."""
    figures = {}
    with new_database(POSTGRESQL) as url, new_watch(node) as (queue, arrived):
        engine = create_engine(url)
        OUR_TABLE.create(engine)
        ours = environment(url, node.url, EXTERNAL)
        with running(RELAY, environment=ours):
            load = _Load(engine, queue, arrived)
            # Until all connections are open and warm.
            load.burst(burst)
            settle(engine)
            with _snapshot(engine):
                began = time.monotonic()
                for seconds in times:
                    load.keep_up_until(began + seconds)
                    rates = [load.burst(burst) for _ in range(_BURSTS)]
                    figures[at(seconds)] = {RATE: statistics.median(rates)}
        engine.dispose()
    return figures


@contextmanager
def _snapshot(engine: Engine) -> Iterator[None]:
    """An idle transaction that may still read all that is deleted from now on."""
    reads = engine.execution_options(isolation_level="REPEATABLE READ")
    with reads.connect() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM orders")
        yield


class _Load:
    """Commits events, and sees them arrive."""

    def __init__(self, engine: Engine, queue: str, arrived: Watch) -> None:
        self._engine = engine
        self._queue = queue
        self._arrived = arrived
        self._written = 0

    def burst(self, events: int) -> float:
        """Commit many events at once; return the rate at which they are sent."""
        self._arrived.wait_until(self._written)
        self._arrived.purge()
        self._write(events)
        return self._arrived.rate(self._written)

    def keep_up_until(self, end: float) -> None:
        """Commit some events again and again, as many a second as it shall be."""
        began, written = time.monotonic(), self._written
        while (now := time.monotonic()) < end:
            if self._written < written + (now - began) * _RATE:
                self._write(_SOME)
            else:
                time.sleep(0.005)

    def _write(self, events: int) -> None:
        first, self._written = self._written + 1, self._written + events
        OUR_TABLE.fill(self._engine, self._queue, first, self._written)


BENCHMARK = Benchmark(
    name="outbox-hold",
    title="Outbox: bursts, by how long a transaction of another client stays open",
    baseline=OURS,
    units=(RATE,),
    jobs=jobs,
)
