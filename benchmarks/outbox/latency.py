"""How long it takes from a commit until a consumer has the event."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping
from functools import partial
from threading import Thread

from sqlalchemy import create_engine

from tests.rabbitmq import RabbitMQNode

from ..results import Benchmark, Case, Job
from ..rig import new_queue
from .arriving import answer, numbers_in, running
from .servers import POSTGRESQL, new_database
from .shop import EXTERNAL, OWN, RELAY, Base, environment, from_environment

P50, P99 = "p50, ms", "p99, ms"
OURS, OURS_EXTERNAL = "ours, own", "ours, external"
GROUP, AT = POSTGRESQL, "50 transactions a second"
#: Seconds between two commits.
_PAUSE = 0.02
#: Until all connections are open and warm.
_UNCOUNTED = 20


def jobs(quick: bool) -> list[Job]:
    events = 150 if quick else 300
    case = Case(GROUP, AT)
    return [
        Job.of_one(case, OURS, partial(latency, OWN, events)),
        Job.of_one(case, OURS_EXTERNAL, partial(latency, EXTERNAL, events)),
    ]


def latency(relay: str, events: int, node: RabbitMQNode) -> Mapping[str, float]:
    """The time from the end of a commit to the consumer, in another process."""
    arrived: dict[int, float] = {}
    with new_database(POSTGRESQL) as url, new_queue(node) as queue:
        engine = create_engine(url)
        Base.metadata.create_all(engine)
        engine.dispose()
        consumer = Thread(target=_consume, args=(node, queue, events, arrived))
        consumer.start()
        command = ("-m", "benchmarks.outbox.latency", queue, str(events))
        sender = [RELAY] if relay == EXTERNAL else []
        ours = environment(url, node.url, relay)
        with running(*sender, command, environment=ours) as processes:
            committed: list[float] = answer(processes[-1])
            consumer.join()
    return _percentiles(committed, arrived)


def _consume(
    node: RabbitMQNode, queue: str, events: int, arrived: dict[int, float]
) -> None:
    """Note when each event has *arrived*, by its number."""
    for number in numbers_in(node, queue):
        arrived[number] = time.monotonic()
        if len(arrived) == events:
            return


def _percentiles(
    committed: list[float], arrived: Mapping[int, float]
) -> Mapping[str, float]:
    """:raises RuntimeError: an event has not arrived."""
    if len(arrived) < len(committed):
        raise RuntimeError(f"{len(arrived)} of {len(committed)} events have arrived")
    times = [1e3 * (arrived[n] - at) for n, at in enumerate(committed)][_UNCOUNTED:]
    cuts = statistics.quantiles(times, n=100)
    return {P50: cuts[49], P99: cuts[98]}


def main() -> None:
    """Commit transactions with one event; print when each commit has ended."""
    queue, events = sys.argv[1], int(sys.argv[2])
    shop, committed = from_environment(), []
    for number in range(events):
        shop.order(queue, [{"n": number, "note": "x" * 230}])
        # The same clock in all processes.
        committed.append(time.monotonic())
        time.sleep(_PAUSE)
    print(json.dumps(committed), flush=True)
    shop.close()


BENCHMARK = Benchmark(
    name="outbox-latency",
    title=f"Outbox: from the commit to the consumer, {AT}",
    baseline=OURS,
    units=(P50, P99),
    jobs=jobs,
)

if __name__ == "__main__":
    main()
