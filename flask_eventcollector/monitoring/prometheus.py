"""Metrics for Prometheus, right in one process and in gunicorn's several.

In several processes, prometheus_client knows neither callbacks nor collectors of its
own: each process writes its values into files, and whoever is scraped adds them up.
https://prometheus.github.io/client_python/multiprocess/
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import cache
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram

from ..delivery.observations import Happened, Observation
from ..events import BrokerState, Stats, Target

#: Counts of the books that only grow.
_OUTCOMES = (
    "enqueued",
    "adopted",
    "confirmed",
    "unrouted",
    "discarded",
    "dropped",
    "outboxed",
)
#: Seconds. A confirm takes about a millisecond in a data centre, and an outage hours.
_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
    60.0,
    600.0,
    3600.0,
)
#: A queue that is not among the settings. Queues may be named after users or hosts, and
#: each name would be a time series of its own.
_OTHER = "other"


class _Metrics(NamedTuple):
    events: Counter
    refusals: Counter
    reconnects: Counter
    publish_seconds: Histogram
    request_wait_seconds: Histogram
    held: Gauge
    oldest: Gauge
    ready: Gauge


class PrometheusMetrics:
    """Keeps the metrics of one app up to date, about once a second.

    They are in prometheus_client's default registry. There is no route: expose them as
    the app does its other metrics.
    """

    wants = frozenset(
        {
            Happened.CONFIRMED,
            Happened.UNROUTED,
            Happened.FAILED,
            Happened.WAITED,
            Happened.CONNECTED,
        }
    )

    def __init__(self, app: str, queues: Container[str]) -> None:
        self._app = app
        self._queues = queues
        self._metrics = _metrics()
        #: The books as they were last counted.
        self._counted = Stats()
        #: Whether there was a connection before.
        self._was_connected = False

    def observe(self, observations: Sequence[Observation], stats: Stats) -> None:
        """Bring the metrics up to date."""
        for observation in observations:
            self._count(observation)
        self._count_books(stats)
        self._show(stats)

    def close(self) -> None:
        """Nothing is held by this process any more."""
        self._show(Stats(broker=BrokerState.IDLE))

    def _count(self, observation: Observation) -> None:
        metrics, app = self._metrics, self._app
        if observation.what is Happened.WAITED:
            metrics.request_wait_seconds.labels(app).observe(observation.elapsed)
        elif observation.what is Happened.CONNECTED:
            if self._was_connected:
                metrics.reconnects.labels(app).inc()
            self._was_connected = True
        elif observation.what in (Happened.CONFIRMED, Happened.UNROUTED):
            queue = self._queue(observation)
            metrics.publish_seconds.labels(app, queue).observe(observation.elapsed)
        elif observation.outcome is not None:
            queue, outcome = self._queue(observation), observation.outcome.value
            metrics.refusals.labels(app, queue, outcome).inc(len(observation.events))

    def _queue(self, observation: Observation) -> str:
        target: Target = observation.events[0].target
        return target.queue if target.queue in self._queues else _OTHER

    def _count_books(self, stats: Stats) -> None:
        for outcome in _OUTCOMES:
            grown = getattr(stats, outcome) - getattr(self._counted, outcome)
            if grown > 0:
                self._metrics.events.labels(self._app, outcome).inc(grown)
        self._counted = stats

    def _show(self, stats: Stats) -> None:
        metrics, app = self._metrics, self._app
        undelivered = stats.delayed + stats.in_flight + stats.retained + stats.dead
        for state, count in {
            "collected": stats.collected,
            "delayed": stats.delayed,
            "in_flight": stats.in_flight,
            "retained": stats.retained,
            "dead": stats.dead,
            "spooled": stats.spooled,
            "at_risk": max(0, undelivered - stats.spooled),
        }.items():
            metrics.held.labels(app, state).set(count)
        metrics.oldest.labels(app).set(stats.oldest_age or 0.0)
        metrics.ready.labels(app).set(not stats.broker.is_trouble)


@cache
def _metrics() -> _Metrics:
    """The metrics of this process: a registry refuses a second one of a name."""
    return _Metrics(
        Counter(
            "eventcollector_events",
            "Events by what became of them; the sum of the books of each process.",
            ["app", "outcome"],
        ),
        Counter(
            "eventcollector_refusals",
            "Attempts that were not confirmed, by their outcome.",
            ["app", "queue", "outcome"],
        ),
        Counter(
            "eventcollector_reconnects",
            "Connections to the broker after the first one of a process.",
            ["app"],
        ),
        Histogram(
            "eventcollector_publish_seconds",
            "Seconds from a hand-over to its confirms, for each of its targets.",
            ["app", "queue"],
            buckets=_BUCKETS,
        ),
        Histogram(
            "eventcollector_request_wait_seconds",
            "Seconds that publish() has waited, at the end of a request or elsewhere.",
            ["app"],
            buckets=_BUCKETS,
        ),
        Gauge(
            "eventcollector_held_events",
            "Events that are held now. at_risk: those lost if the process died now.",
            ["app", "state"],
            multiprocess_mode="livesum",
        ),
        Gauge(
            "eventcollector_oldest_event_age_seconds",
            "Age of the oldest event that is in flight or retained; 0: there is none.",
            ["app"],
            multiprocess_mode="livemax",
        ),
        Gauge(
            "eventcollector_broker_ready",
            "0: the broker is down, blocked or stalled; 1: it is not.",
            ["app"],
            multiprocess_mode="livemin",
        ),
    )
