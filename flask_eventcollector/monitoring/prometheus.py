"""Metrics for Prometheus, right in one process and in gunicorn's several.

In several processes, prometheus_client knows neither callbacks nor collectors of its
own: each process writes its values into files, and whoever is scraped adds them up.
https://prometheus.github.io/client_python/multiprocess/
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import mark_process_dead

from ..delivery.observations import Happened, Observation
from ..events import BrokerState, Stats
from .outbox import Look, OutboxFigures
from .shared_folder import VARIABLE, check_room, gone, show_life

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
#: Seconds between two looks for killed processes that have shared their files.
_LOOK_INTERVAL = 10.0
_DELIVERED = frozenset({Happened.CONFIRMED, Happened.UNROUTED})
#: A queue that is not among the settings. Queues may be named after users or hosts, and
#: each name would be a time series of its own.
_OTHER = "other"


class _Metrics(NamedTuple):
    events: Counter
    refusals: Counter
    reconnects: Counter
    lost_leases: Counter
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

    needs_events = False

    def __init__(self, app: str, queues: Container[str]) -> None:
        self._app = app
        self._queues = queues
        self._metrics = _of_process(_metrics)
        #: By queue. Made once, since each request needs one.
        self._publishes: dict[str, Histogram] = {}
        #: The books as they were last counted.
        self._counted = Stats()
        #: Whether there was a connection before.
        self._was_connected = False
        self._has_begun = False
        #: When to look for killed processes.
        self._next_look = float("-inf")

    def observe(self, observations: Sequence[Observation], stats: Stats) -> None:
        """Bring the metrics up to date.

        :raises OSError: the files can't be written that several processes share.
        """
        if not self._has_begun:
            _check_room()
            self._show_zeros()
            self._has_begun = True
        for observation in observations:
            self._count(observation)
        self._count_books(stats)
        self._show(stats)
        self._forget_the_dead()

    def close(self) -> None:
        """Nothing is held by this process any more."""
        if self._has_begun:
            self._show(Stats(broker=BrokerState.IDLE))

    def _show_zeros(self) -> None:
        """Let counters begin at 0: a series that begins at 3 has not grown by 3."""
        for outcome in _OUTCOMES:
            self._metrics.events.labels(self._app, outcome)
        self._metrics.reconnects.labels(self._app)
        self._metrics.lost_leases.labels(self._app)

    def _count(self, observation: Observation) -> None:
        metrics, app = self._metrics, self._app
        if observation.what is Happened.WAITED:
            self._waits.observe(observation.elapsed)
        elif observation.what is Happened.CONNECTED:
            if self._was_connected:
                metrics.reconnects.labels(app).inc()
            self._was_connected = True
        elif observation.what in _DELIVERED:
            self._publish_seconds(self._queue(observation)).observe(observation.elapsed)
        elif observation.outcome is not None:
            queue, outcome = self._queue(observation), observation.outcome.value
            metrics.refusals.labels(app, queue, outcome).inc(observation.number)

    @cached_property
    def _waits(self) -> Histogram:
        return self._metrics.request_wait_seconds.labels(self._app)

    def _publish_seconds(self, queue: str) -> Histogram:
        if queue not in self._publishes:
            child = self._metrics.publish_seconds.labels(self._app, queue)
            self._publishes[queue] = child
        return self._publishes[queue]

    def _queue(self, observation: Observation) -> str:
        queue = "" if observation.target is None else observation.target.queue
        return queue if queue in self._queues else _OTHER

    def _count_books(self, stats: Stats) -> None:
        for outcome in _OUTCOMES:
            grown = getattr(stats, outcome) - getattr(self._counted, outcome)
            if grown > 0:
                self._metrics.events.labels(self._app, outcome).inc(grown)
        lost = stats.lost_leases - self._counted.lost_leases
        if lost > 0:
            self._metrics.lost_leases.labels(self._app).inc(lost)
        self._counted = stats

    def _show(self, stats: Stats) -> None:
        metrics, app = self._metrics, self._app
        undelivered = stats.delayed + stats.in_flight + stats.retained + stats.dead
        safe = stats.spooled + stats.committed
        for state, count in {
            "collected": stats.collected,
            "delayed": stats.delayed,
            "in_flight": stats.in_flight,
            "retained": stats.retained,
            "dead": stats.dead,
            "spooled": safe,
            "at_risk": max(0, undelivered - safe),
        }.items():
            metrics.held.labels(app, state).set(count)
        metrics.oldest.labels(app).set(stats.oldest_age or 0.0)
        metrics.ready.labels(app).set(not stats.broker.is_trouble)

    def _forget_the_dead(self) -> None:
        """Remove what killed processes have said of their present, now and then.

        Otherwise, it would be true until somebody empties the folder. A server may call
        ``mark_process_dead`` for its workers, but nobody does so for a relay.
        """
        folder = _shared_folder()
        if folder is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_INTERVAL
            show_life(folder)
            for process in gone(folder):
                # Another thread or process may be just doing the same.
                with suppress(FileNotFoundError):
                    mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]


class _OutboxMetrics(NamedTuple):
    rows: Gauge
    oldest: Gauge
    last_active: Gauge


class PrometheusOutbox:
    """Shows all rows of the outbox, as long as this process is the active relay.

    A killed process leaves what it has written, for as long as others read its files.
    So none says that it is the active relay, which would stay true: it says when it was
    that last.
    """

    wants = frozenset[Happened]()
    needs_events = False

    def __init__(self, app: str, look: Look) -> None:
        self._app = app
        self._look = look
        self._metrics = _of_process(_outbox_metrics)
        self._has_begun = False
        #: What it has shown.
        self._states: set[str] = set()

    def observe(self, observations: Sequence[Observation], stats: Stats) -> None:
        """Bring the metrics up to date.

        :raises OSError: the files can't be written that several processes share.
        """
        if not self._has_begun:
            _check_room()
            # Otherwise, nothing would tell that none has ever been active.
            self._metrics.last_active.labels(self._app)
            self._has_begun = True
        if (figures := self._look()) is None:
            self._forget()
        else:
            self._show(figures)

    def close(self) -> None:
        """This process is not the active relay any more."""
        self._forget()

    def _show(self, figures: OutboxFigures) -> None:
        self._metrics.last_active.labels(self._app).set(time.time())
        if figures.rows:
            self._metrics.oldest.labels(self._app).set(figures.oldest_age)
            for state, count in figures.rows.items():
                self._metrics.rows.labels(self._app, state).set(count)
            self._states.update(figures.rows)

    def _forget(self) -> None:
        """Let the series end that another process continues."""
        # From files that are shared, no series can be removed.
        if self._states and _shared_folder() is None:
            self._metrics.oldest.remove(self._app)
            for state in self._states:
                self._metrics.rows.remove(self._app, state)
            self._states.clear()


def exposition() -> tuple[bytes, str]:
    """All metrics of this process as text, and its media type."""
    return generate_latest(), CONTENT_TYPE_LATEST


def _shared_folder() -> Path | None:
    """Where several processes write files; ``None``: this one does not."""
    folder = os.environ.get(VARIABLE)
    return None if folder is None else Path(folder)


def _check_room() -> None:
    """Check that this process may begin to write.

    :raises OSError: it must not, or can't.
    """
    if (folder := _shared_folder()) is not None:
        check_room(folder)


T = TypeVar("T", bound=Iterable[Any])

#: The metrics of this process, by the function that makes them.
_made: dict[object, Any] = {}


def _of_process(make: Callable[[], T]) -> T:
    """The metrics of this process that *make* makes: they exist once, and are exposed.

    The first events of two threads, or of a destructor, may be here at once, and a
    signal handler may raise in between. The registry refuses a second metric of a name.
    So only those that everybody has are registered, by whoever finds that they are not.
    """
    made: T = _made.get(make) or _made.setdefault(make, make())
    for metric in made:
        with suppress(ValueError):  # It is registered.
            REGISTRY.register(metric)
    return made


def _metrics() -> _Metrics:
    return _Metrics(
        events=_counter(
            "events",
            "Events by what became of them; the sum of the books of each process.",
            "outcome",
        ),
        refusals=_counter(
            "refusals",
            "Attempts that were not confirmed, by their outcome.",
            "queue",
            "outcome",
        ),
        reconnects=_counter(
            "reconnects",
            "Connections to the broker after the first one of a process.",
        ),
        lost_leases=_counter(
            "lease_lost",
            "Rows of the outbox whose lease has run out while a process held them.",
        ),
        publish_seconds=_histogram(
            "publish_seconds",
            "Seconds from a hand-over to its confirms, for each of its targets.",
            "queue",
        ),
        request_wait_seconds=_histogram(
            "request_wait_seconds",
            "Seconds that publish() has waited, at the end of a request or elsewhere.",
        ),
        held=_gauge(
            "livesum",
            "held_events",
            "Events that are held now. at_risk: those lost if the process died now.",
            "state",
        ),
        oldest=_gauge(
            "livemax",
            "oldest_event_age_seconds",
            "Age of the oldest event that is in flight or retained; 0: there is none.",
        ),
        ready=_gauge(
            "livemin",
            "broker_ready",
            "0: the broker is down, blocked or stalled; 1: it is not.",
        ),
    )


def _outbox_metrics() -> _OutboxMetrics:
    return _OutboxMetrics(
        rows=_gauge(
            "livemostrecent",
            "outbox_events",
            "Rows of the outbox, of all processes; told by the active relay.",
            "state",
        ),
        oldest=_gauge(
            "livemostrecent",
            "outbox_oldest_age_seconds",
            "Age of the oldest event in the outbox that is not dead; 0: there is none.",
        ),
        last_active=_gauge(
            "max",
            "outbox_relay_last_active_timestamp_seconds",
            "When a relay was last the active one, in Unix time; 0: it never was.",
        ),
    )


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"eventcollector_{name}", text, ["app", *labels], registry=None)


def _histogram(name: str, text: str, *labels: str) -> Histogram:
    return Histogram(
        f"eventcollector_{name}",
        text,
        ["app", *labels],
        registry=None,
        buckets=_BUCKETS,
    )


def _gauge(mode: Any, name: str, text: str, *labels: str) -> Gauge:
    """A gauge; *mode* says how the values of several processes become one."""
    return Gauge(
        f"eventcollector_{name}",
        text,
        ["app", *labels],
        registry=None,
        multiprocess_mode=mode,
    )
