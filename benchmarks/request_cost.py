"""What events cost a request under gunicorn."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from . import serving
from .results import Benchmark, Case, Job
from .serving import GTHREAD, WORKERS, Turns
from .views import (
    BLOCKING,
    CONNECTING,
    FLOOR,
    FLOOR_LATER,
    METRICS,
    METRICS_LATER,
    NO_EVENTS,
    OURS,
    OURS_LATER,
    SPOOL_LATER,
    VIEWS,
)

_FEW = (NO_EVENTS, OURS)
#: Those with metrics have a benchmark of their own.
_ALL = tuple(view for view in VIEWS if view not in (METRICS, METRICS_LATER))
_QUICK = (*_FEW, OURS_LATER, SPOOL_LATER, BLOCKING, FLOOR, FLOOR_LATER)


def at(events: int) -> str:
    return "1 event" if events == 1 else f"{events} events"


def jobs(quick: bool) -> list[Job]:
    turns = Turns(3, 0.5) if quick else Turns(5, 1)
    return [
        Job(
            Case(worker, at(events)),
            views,
            partial(serving.costs_in_turns, views, worker, events, turns),
        )
        for worker, events, views in (_quick() if quick else _full())
    ]


def _quick() -> Iterator[tuple[str, int, tuple[str, ...]]]:
    for events in (1, 5):
        yield GTHREAD, events, _QUICK
    for worker in WORKERS:
        if worker != GTHREAD:
            yield worker, 5, _FEW


def _full() -> Iterator[tuple[str, int, tuple[str, ...]]]:
    for worker in WORKERS:
        yield worker, 0, _FEW
        yield worker, 1, _ALL
        yield worker, 5, _ALL
        # By then, the connection is not what costs most.
        yield worker, 50, tuple(view for view in _ALL if view != CONNECTING)


BENCHMARK = Benchmark(
    name="request-cost",
    title="Request cost: a view with events of 256 bytes, 8 clients",
    baseline=NO_EVENTS,
    units=serving.UNITS,
    jobs=jobs,
)
