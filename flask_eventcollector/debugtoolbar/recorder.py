"""Remembers the events of the last requests, with what became of them."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flask
from flask import Flask

from .. import contexts, signals
from ..app_state import AppState, state_of
from ..collecting.requests import RequestScope
from ..delivery.entries import State
from ..events import Event
from .recorded import RecordedEvent, RecordedRequest

#: How many requests are remembered.
MOST_REQUESTS = 20

AT_THE_END = "published at the end of the request, if it succeeds"
NOT_PUBLISHED = "not published yet: its request, block or transaction has not ended"
IN_THE_OUTBOX = "in the outbox"
UNREPORTED = "decided, and reported within a second"

_WORDS = {
    State.COLLECTED: NOT_PUBLISHED,
    State.DELAYED: "delayed",
    State.RETAINED: "waits for the next try",
    State.IN_FLIGHT: "in flight",
    State.DEAD: "dead",
}


class ShownRequest(NamedTuple):
    """A request, with the events that are remembered, and the outcome of each now."""

    request: RecordedRequest
    events: list[tuple[RecordedEvent, str]]


class Shown(NamedTuple):
    """What the panel shows."""

    current: ShownRequest
    #: The others that have enqueued events, the latest first.
    others: list[ShownRequest]


class Recorder:
    """The last requests of one app, in this process, that have enqueued events.

    It listens to the app's signals, in whichever thread they are sent. It takes no
    lock, which a destructor that enqueues might find taken: each operation on its
    containers is atomic.
    """

    def __init__(self) -> None:
        self._last: deque[RecordedRequest] = deque(maxlen=MOST_REQUESTS)
        self._by_scope = weakref.WeakKeyDictionary[RequestScope, RecordedRequest]()

    def connect(self, app: Flask) -> None:
        """Listen from now on, for as long as this object lives."""
        signals.event_enqueued.connect(self._enqueued, sender=app)
        signals.events_published.connect(self._published, sender=app)
        signals.events_unrouted.connect(self._unrouted, sender=app)
        signals.publish_failed.connect(self._failed, sender=app)
        signals.events_discarded.connect(self._discarded, sender=app)
        signals.events_dropped.connect(self._dropped, sender=app)
        signals.events_dead.connect(self._dead, sender=app)
        flask.request_finished.connect(self._finished, sender=app)
        flask.got_request_exception.connect(self._raised, sender=app)

    def shown(self, state: AppState) -> Shown:
        """All requests as they are now, in the request of the panel."""
        scope = contexts.current_request(state.app, state.scopes)
        current = None if scope is None else self._by_scope.get(scope)
        collected = scope.collector.events_to_publish if scope and scope.used else ()
        return Shown(
            _shown(current or RecordedRequest(), state, {e.id for e in collected}),
            [_shown(r, state) for r in [*self._last][::-1] if r is not current],
        )

    # Requests.

    def _finished(self, sender: Flask, response: flask.Response, **extra: Any) -> None:
        if (request := self._request(sender)) is not None:
            request.status = response.status_code

    def _raised(self, sender: Flask, exception: BaseException, **extra: Any) -> None:
        if (request := self._request(sender)) is not None:
            request.error = type(exception).__name__

    def _request(self, app: Flask) -> RecordedRequest | None:
        """The current one, if it has enqueued an event."""
        scope = _scope(app)
        return None if scope is None else self._by_scope.get(scope)

    def _begin(self, scope: RequestScope) -> RecordedRequest:
        request = self._by_scope[scope] = _new_request(scope)
        self._last.append(request)
        return request

    # Events.

    def _enqueued(self, sender: Flask, *, event: Event, **extra: Any) -> None:
        if (scope := _scope(sender)) is not None:
            request = self._by_scope.get(scope) or self._begin(scope)
            request.add(event, is_kept=_is_kept(sender))

    def _published(
        self, sender: Flask, *, events: Iterable[Event], **extra: Any
    ) -> None:
        for event in self._known(events):
            event.end("confirmed")

    def _unrouted(
        self, sender: Flask, *, events: Iterable[Event], reason: str, **extra: Any
    ) -> None:
        for event in self._known(events):
            event.end("unrouted", reason)

    def _failed(
        self, sender: Flask, *, events: Iterable[Event], error: str, **extra: Any
    ) -> None:
        for event in self._known(events):
            event.note(error)

    def _discarded(
        self, sender: Flask, *, events: Iterable[Event], reason: str, **extra: Any
    ) -> None:
        for event in self._known(events):
            event.end("discarded", reason)

    def _dropped(
        self, sender: Flask, *, events: Iterable[Event], reason: str, **extra: Any
    ) -> None:
        for event in self._known(events):
            event.end("dropped", reason)

    def _dead(
        self, sender: Flask, *, events: Iterable[Event], reason: str, **extra: Any
    ) -> None:
        for event in self._known(events):
            event.note(reason)

    def _known(self, events: Iterable[Event]) -> Iterator[RecordedEvent]:
        requests = [*self._last]
        found = (r.events.get(event.id) for event in events for r in requests)
        return (event for event in found if event is not None)


def _scope(app: Flask) -> RequestScope | None:
    """The current request of *app*; ``None``: there is none."""
    state = state_of(app)
    return None if state is None else contexts.current_request(app, state.scopes)


def _new_request(scope: RequestScope) -> RecordedRequest:
    name = "after the end of a request"
    if flask.has_request_context():
        name = f"{flask.request.method} {flask.request.path}"
    request = RecordedRequest(name)
    # It may have its response already.
    request.status = scope.status
    return request


def _is_kept(app: Flask) -> bool:
    """Whether a commit writes the event that is enqueued now into the outbox."""
    state = state_of(app)
    if state is None or not state.has_outbox:
        return False
    transaction = state.sessions.current()
    return transaction is not None and transaction.writes_events


def _shown(
    request: RecordedRequest, state: AppState, collected: Container[str] = ()
) -> ShownRequest:
    delivery, events = state.delivery_if_used(), [*request.events.values()]
    states = {} if delivery is None else delivery.states(e.id for e in events)
    return ShownRequest(
        request,
        [
            (event, AT_THE_END if event.id in collected else _outcome(event, states))
            for event in events
        ],
    )


def _outcome(event: RecordedEvent, states: Mapping[str, State]) -> str:
    """What has become of the event, by the states of those that are held."""
    if event.outcome:
        return event.outcome
    if event.id in states:
        return _WORDS[states[event.id]]
    return IN_THE_OUTBOX if event.is_kept else UNREPORTED
