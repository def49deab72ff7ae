"""Metrics by OpenTelemetry's conventions for messaging, which are in development.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from opentelemetry import metrics

from ..delivery.observations import Happened, Observation
from ..events import Stats
from .conventions import SCHEMA, SCOPE, destination, operation

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


class OpenTelemetryMetrics:
    """Reports attempts to whichever meter provider the application has set up."""

    wants = frozenset({Happened.CONFIRMED, Happened.UNROUTED, Happened.FAILED})

    def __init__(self, queues: Container[str]) -> None:
        self._queues = queues
        meter = metrics.get_meter(SCOPE, schema_url=SCHEMA)
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

    def observe(self, observations: Sequence[Observation], stats: Stats) -> None:
        """Report the attempts that have ended."""
        for observation in observations:
            failed = observation.what is Happened.FAILED
            if failed and observation.outcome is None:
                # Not sent.
                continue
            attributes = self._attributes(observation)
            self._sent.add(len(observation.events), attributes)
            self._duration.record(observation.since_sent, attributes)

    def close(self) -> None:
        """The meter provider is the application's."""

    def _attributes(self, observation: Observation) -> dict[str, str]:
        target = observation.events[0].target
        attributes = operation("publish", "send")
        if target.queue in self._queues:
            # Others may be too many.
            attributes["messaging.destination.name"] = destination(target)
        if observation.what is Happened.FAILED:
            attributes["error.type"] = str(observation.outcome)
        return attributes
