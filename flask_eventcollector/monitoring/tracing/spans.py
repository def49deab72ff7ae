"""Reports each attempt to send events as a span ``publish …``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    set_span_in_context,
)

from ...delivery.observations import Happened, Observation
from ...events import Event, Outcome, Stats, Target
from ..conventions import about_node, about_target, destination, operation
from .opentelemetry import trace_of, tracer

#: The most links of a span, which is also the SDK's default limit.
MOST_LINKS = 128

#: Names a span: its trace, and its number in there.
_Span: TypeAlias = tuple[int, int]
#: What the events of a batch have in common.
_Key: TypeAlias = tuple[Target, Happened, Outcome | None, int, _Span]


def _name(context: SpanContext) -> _Span:
    return context.trace_id, context.span_id


class _Batch:
    """Events that were sent to a target at about the same time, with one outcome."""

    def __init__(self, first: Observation, event: Event, parent: SpanContext) -> None:
        self.first, self.event, self.parent = first, event, parent
        self.begin = self.end = first.at
        self.count = 0
        #: In which spans its events were enqueued.
        self.links: dict[_Span, SpanContext] = {}

    def has_room(self, created: SpanContext) -> bool:
        """Whether an event that was enqueued in *created* may be added."""
        return len(self.links) < MOST_LINKS or _name(created) in self.links

    def add(self, created: SpanContext, observation: Observation) -> None:
        """Add an event that was enqueued in the span *created*."""
        self.count += 1
        self.begin = min(self.begin, observation.at - observation.since_sent)
        self.end = max(self.end, observation.at)
        if created.is_valid and _name(created) != _name(self.parent):
            self.links[_name(created)] = created

    def attributes(self) -> dict[str, str | int]:
        """What the span says from its beginning, so that samplers know it."""
        target = self.event.target
        found: dict[str, str | int] = {
            **operation("publish", "send"),
            **about_target(target),
            "eventcollector.attempt": self.first.attempt,
        }
        if self.count > 1:
            found["messaging.batch.message_count"] = self.count
        else:
            found["messaging.message.id"] = self.event.id
            if self.event.properties.correlation_id is not None:
                conversation = self.event.properties.correlation_id
                found["messaging.message.conversation_id"] = conversation
        return found | about_node(self.first.node)


class SpanObserver:
    """Makes the spans of attempts, once they have ended, in the observers' thread.

    What a caller has waited for is a child of the caller's span, as long as there is
    one for each target. All else has traces of its own, with links to the spans in
    which the events were enqueued: a retry may come hours after the request.

    A batch is complete a second after its first confirm. Deferred events of a target
    share a batch however they were enqueued, up to :data:`MOST_LINKS` links: so an
    outage that ends does not make a span for each event.
    """

    wants = frozenset({Happened.CONFIRMED, Happened.UNROUTED, Happened.FAILED})
    needs_events = True

    def __init__(self) -> None:
        self._tracer = tracer()
        self._batches: dict[_Key, _Batch] = {}
        #: What the app's span processors have raised last.
        self._failure: Exception | None = None

    def observe(self, observations: Sequence[Observation], stats: Stats) -> None:
        """Report the batches of the last call, with what has been added to them.

        :raises Exception: a span processor of the app has failed. It has cost the spans
            for which it did, and no others.
        """
        complete, self._batches = self._batches, {}
        for observation in observations:
            for event in observation.events:
                self._add(event, observation, complete)
        for batch in complete.values():
            self._report(batch)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Report the rest."""
        self.observe((), Stats())

    def _add(
        self, event: Event, observation: Observation, complete: dict[_Key, _Batch]
    ) -> None:
        created = trace_of(event)
        parent = _parent(observation.caller, created)
        about = (observation.what, observation.outcome, observation.attempt)
        key = (event.target, *about, _name(parent))
        for batches in (complete, self._batches):
            batch = batches.get(key)
            if batch is not None and batch.has_room(created):
                break
        else:
            if batch is not None:
                self._report(batch)
            batch = self._batches[key] = _Batch(observation, event, parent)
        batch.add(created, observation)

    def _report(self, batch: _Batch) -> None:
        try:
            self._make_span(batch)
        except Exception as error:
            self._failure = error

    def _make_span(self, batch: _Batch) -> None:
        root, parent = Context(), batch.parent
        if parent.is_valid:
            root = set_span_in_context(NonRecordingSpan(parent), root)
        span = self._tracer.start_span(
            f"publish {destination(batch.event.target)}",
            root,
            SpanKind.CLIENT,
            batch.attributes(),
            [Link(context) for context in batch.links.values()],
            start_time=_nanoseconds(batch.begin),
        )
        first = batch.first
        if first.what is Happened.FAILED:
            outcome = "not_sent" if first.outcome is None else first.outcome.value
            span.set_attribute("error.type", outcome)
            span.set_status(Status(StatusCode.ERROR, first.reason))
        else:
            outcome = first.what.value
        span.set_attribute("eventcollector.outcome", outcome)
        span.end(_nanoseconds(batch.end))


def _parent(caller: object, created: SpanContext) -> SpanContext:
    """The parent of an attempt for which *caller* has waited; not valid: it is a root.

    If the caller's span had ended, as at the end of a request whose instrumentation
    was torn down before, it is the one in which the event was enqueued.
    """
    if not isinstance(caller, SpanContext):
        return INVALID_SPAN_CONTEXT
    return caller if caller.is_valid else created


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
