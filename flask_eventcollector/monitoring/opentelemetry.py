"""Metrics by OpenTelemetry's conventions for messaging, which are in development.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/
"""

from __future__ import annotations

import time
from collections.abc import Container, Sequence

from opentelemetry import metrics

from ..delivery.observations import Happened, Observation
from ..events import Stats
from .conventions import SCHEMA, SCOPE, about_node, destination, operation
from .outbox import Look

#: Seconds, as the conventions have them.
_BUCKETS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)


def has_provider() -> bool:
    """Whether the application has set a meter provider, which makes something of it."""
    module = type(metrics.get_meter_provider()).__module__
    return not module.startswith(f"{metrics.__name__}.")


class OpenTelemetryMetrics:
    """Reports attempts to whichever meter provider the application has set up."""

    wants = frozenset({Happened.CONFIRMED, Happened.UNROUTED, Happened.FAILED})
    needs_events = False

    def __init__(self, queues: Container[str]) -> None:
        self._queues = queues
        meter = _meter()
        self._sent = meter.create_counter(
            "messaging.client.sent.messages",
            unit="{message}",
            description="Number of messages producer attempted to send to the broker.",
        )
        self._duration = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="Duration of messaging operation initiated by a client.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._lost_leases = meter.create_counter(
            "eventcollector.lease.lost",
            unit="{event}",
            description="Rows of the outbox whose lease has run out while held.",
        )
        #: How many were reported.
        self._lost = 0

    def observe(self, observations: Sequence[Observation], stats: Stats) -> None:
        """Report the attempts that have ended, and leases that were lost."""
        if lost := stats.lost_leases - self._lost:
            self._lost_leases.add(lost)
            self._lost = stats.lost_leases
        for observation in observations:
            failed = observation.what is Happened.FAILED
            if failed and observation.outcome is None:
                # Not sent.
                continue
            attributes = self._attributes(observation)
            self._sent.add(observation.number, attributes)
            self._duration.record(observation.since_sent, attributes)

    def close(self) -> None:
        """The meter provider is the application's."""

    def _attributes(self, observation: Observation) -> dict[str, str | int]:
        target = observation.target
        attributes = operation("publish", "send") | about_node(observation.node)
        if target is not None and target.queue in self._queues:
            # Others may be too many.
            attributes["messaging.destination.name"] = destination(target)
        if observation.what is Happened.FAILED:
            attributes["error.type"] = str(observation.outcome)
        return attributes


class OpenTelemetryOutbox:
    """Reports all rows of the outbox, as long as this process is the active relay.

    There are no conventions for these.
    """

    wants = frozenset[Happened]()
    needs_events = False

    def __init__(self, look: Look) -> None:
        self._look = look
        meter = _meter()
        self._rows = meter.create_gauge(
            "eventcollector.outbox.events",
            unit="{event}",
            description="Rows of the outbox, of all processes.",
        )
        self._oldest = meter.create_gauge(
            "eventcollector.outbox.oldest_age",
            unit="s",
            description="Age of the oldest event in the outbox that is not dead.",
        )
        self._last_active = meter.create_gauge(
            "eventcollector.outbox.relay.last_active",
            unit="s",
            description="When this process was last the active relay, in Unix time.",
        )
        # Otherwise, nothing would tell that none has ever been active.
        self._last_active.set(0)

    def observe(self, observations: Sequence[Observation], stats: Stats) -> None:
        """Report what is there now."""
        if (figures := self._look()) is None:
            return
        self._last_active.set(time.time())
        if figures.rows:
            self._oldest.set(figures.oldest_age)
            for state, count in figures.rows.items():
                self._rows.set(count, {"eventcollector.state": state})

    def close(self) -> None:
        """What it was last is true still."""


def _meter() -> metrics.Meter:
    return metrics.get_meter(SCOPE, schema_url=SCHEMA)
