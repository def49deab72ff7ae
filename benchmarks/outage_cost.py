"""What events cost a request while the broker is in trouble."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from tests.faults.proxy import Proxy
from tests.rabbitmq import RabbitMQNode

from . import serving
from .results import Benchmark, Case, Job
from .serving import GTHREAD
from .views import (
    BLOCKING,
    FLOOR,
    NO_EVENTS,
    OURS,
    OURS_LATER,
    SPOOL,
    SPOOL_LATER,
)

EVENTS = 5
GROUP = f"{GTHREAD}, {EVENTS} events"
UP, DOWN, FROZEN, BLOCKED, FAR = "up", "down", "frozen", "blocked", "50 ms away"
_OURS = (NO_EVENTS, OURS, OURS_LATER, SPOOL, SPOOL_LATER)
#: The delay in each direction, in seconds.
_ONE_WAY = 0.025


@contextmanager
def down(node: RabbitMQNode) -> Iterator[None]:
    node.stop_app()
    try:
        yield
    finally:
        node.start_app()


@contextmanager
def _frozen(node: RabbitMQNode) -> Iterator[None]:
    node.freeze()
    try:
        yield
    finally:
        node.thaw()


@contextmanager
def _blocked(node: RabbitMQNode) -> Iterator[None]:
    node.memory_alarm(True)
    try:
        yield
    finally:
        node.memory_alarm(False)


_FAULTS: dict[str, Callable[[RabbitMQNode], AbstractContextManager[None]]] = {
    DOWN: down,
    FROZEN: _frozen,
    BLOCKED: _blocked,
}


def jobs(quick: bool) -> list[Job]:
    seconds = 1 if quick else 4
    views = _OURS[:3] if quick else _OURS
    reachable = [*views, BLOCKING, FLOOR]
    return [
        *(_job(UP, view, partial(_up, view, seconds)) for view in reachable),
        *(
            _job(fault, view, partial(_during, fault, view, seconds))
            for fault in _FAULTS
            for view in views
        ),
        *(_job(FAR, view, partial(_far, view, seconds)) for view in reachable),
    ]


def _job(
    place: str, view: str, run: Callable[[RabbitMQNode], Mapping[str, float]]
) -> Job:
    return Job.of_one(Case(GROUP, place), view, run)


def _up(view: str, seconds: int, node: RabbitMQNode) -> Mapping[str, float]:
    return serving.cost_of(view, GTHREAD, EVENTS, seconds, node)


def _during(
    fault: str, view: str, seconds: int, node: RabbitMQNode
) -> Mapping[str, float]:
    trouble = _FAULTS[fault](node)
    return serving.cost_of(view, GTHREAD, EVENTS, seconds, node, fault=trouble)


def _far(view: str, seconds: int, node: RabbitMQNode) -> Mapping[str, float]:
    with Proxy(node.port) as proxy:
        proxy.latency = _ONE_WAY
        return serving.cost_of(view, GTHREAD, EVENTS, seconds, node, url=proxy.url)


BENCHMARK = Benchmark(
    name="outage-cost",
    title="Outage cost: the same view while the broker is in trouble",
    baseline=NO_EVENTS,
    units=serving.UNITS,
    jobs=jobs,
)
