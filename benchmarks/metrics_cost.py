"""What metrics cost a request under gunicorn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec

from tests.rabbitmq import RabbitMQNode

from . import serving
from .request_cost import at
from .results import Benchmark, Case, Job, Unavailable
from .serving import GTHREAD, Turns
from .views import METRICS, METRICS_LATER, OURS, OURS_LATER

EVENTS = 5
#: Without metrics, and with them.
PAIRS = ((OURS, METRICS), (OURS_LATER, METRICS_LATER))


def jobs(quick: bool) -> list[Job]:
    # Many short ones: the ratio is to be told from the noise.
    turns = Turns(3, 0.5) if quick else Turns(12, 1)
    case = Case(GTHREAD, at(EVENTS))
    # A view that does not wait leaves work to the turn after its own, so each pair has
    # turns of its own.
    return [Job(case, pair, partial(_run, pair, turns)) for pair in PAIRS]


def _run(
    views: Sequence[str], turns: Turns, node: RabbitMQNode
) -> Mapping[str, Mapping[str, float]]:
    if find_spec("prometheus_client") is None:
        raise Unavailable("prometheus_client is not installed")
    return serving.costs_in_turns(views, GTHREAD, EVENTS, turns, node)


BENCHMARK = Benchmark(
    name="metrics",
    title="Metrics: a view with 5 events of 256 bytes, 8 clients",
    baseline=OURS,
    units=serving.UNITS,
    jobs=jobs,
)
