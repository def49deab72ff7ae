"""Records one app's signals for a test."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from blinker import NamedSignal
from flask import Flask

from .. import signals
from ..app_state import AppState
from ..collecting.requests import RequestScope
from ..config.routing import Router
from ..delivery.entries import Entry
from ..events import BrokerState, Event, Outcome
from ..messages.encoding import provider_default
from ..monitoring.origin import origin_of_call
from ..stores.filter import matches_name
from .captured import CapturedEvent, CapturedEvents, Fate, Unit
from .fault_injector import FaultInjector
from .matching import json_medium


class Record:
    """Every event that one app has signalled, with its fate. Thread-safe."""

    def __init__(self, app: Flask, state: AppState) -> None:
        self.app = app
        self.medium = json_medium(provider_default(app.json))
        self._state = state
        self._router = Router(state.config.topology)
        self._faults: FaultInjector | None = None
        self._lock = threading.RLock()
        #: By id, in the order of their first signal.
        self._events: dict[str, CapturedEvent] = {}
        #: Ids, in the order in which the events reached the fate.
        self._fates: dict[Fate, dict[str, None]] = {fate: {} for fate in Fate}
        #: The position of each event among the enqueued ones.
        self._places: dict[str, int] = {}
        #: The position of each event among those sent, at its last attempt.
        self._sent_places: dict[str, int] = {}
        self._numbers = itertools.count()
        self._asserted: set[str] = set()
        #: Queues, or globs, of events that need no assertion.
        self._ignored: tuple[str, ...] = ()
        self._broker_states: list[BrokerState] = []

    # Read by tests.

    def everything(self) -> list[CapturedEvent]:
        """All events, regardless of their fate."""
        with self._lock:
            return list(self._events.values())

    def having(self, fate: Fate) -> CapturedEvents:
        """The events with *fate*, in the order in which they reached it.

        Every enqueued event has the fate ``ENQUEUED``.
        """
        with self._lock:
            ids = list(self._fates[fate])
            if fate is Fate.PUBLISHED:
                # Confirms for different targets may arrive in any order.
                ids.sort(key=lambda id: self._sent_places.get(id, -1))
            events = [self._events[id] for id in ids]
        return CapturedEvents(events, self.note_asserted)

    def broker_states(self) -> list[BrokerState]:
        """The new states of the broker that were signalled, in order."""
        with self._lock:
            return list(self._broker_states)

    def note_asserted(self, events: Iterable[CapturedEvent]) -> None:
        """Count *events* as asserted on, in every open capture of the app."""
        ids = {event.id for event in events}
        for record in self._of_this_app():
            record._asserted |= ids

    def ignore(self, queues: Iterable[str]) -> None:
        """Expect no assertions about *queues*, in every open capture of the app."""
        for record in self._of_this_app():
            record._ignored = (*record._ignored, *queues)

    def others(self) -> list[CapturedEvent]:
        """The published events that no assertion was about."""
        return [e for e in self.having(Fate.PUBLISHED) if self._is_other(e)]

    def _is_other(self, event: CapturedEvent) -> bool:
        ignored = any(matches_name(event.queue, queue) for queue in self._ignored)
        return not ignored and event.id not in self._asserted

    def _of_this_app(self) -> list[Record]:
        return [r for r in {self, *_open_records} if r.app is self.app]

    # Receivers of signals.

    @property
    def is_listening(self) -> bool:
        """Whether a :meth:`listening` block is active."""
        return self in _open_records

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive signals until the end of the block."""
        receivers: dict[NamedSignal, Callable[..., None]] = {
            signals.event_enqueued: self._enqueued,
            signals.events_published: self._published,
            signals.events_unrouted: self._unrouted,
            signals.publish_failed: self._failed,
            signals.events_discarded: self._discarded,
            signals.events_dropped: self._dropped,
            signals.events_dead: self._dead,
            signals.broker_state_changed: self._broker_changed,
        }
        with ExitStack() as stack:
            for signal, receiver in receivers.items():
                stack.enter_context(signal.connected_to(receiver, sender=self.app))
            _open_records.add(self)
            stack.callback(_open_records.discard, self)
            stack.callback(self._unwatch)
            self._watch()
            yield

    def _enqueued(self, sender: Flask, event: Event, **extra: Any) -> None:
        captured = self._captured(event, origin=origin_of_call(), unit=self._unit())
        self._watch()
        with self._lock:
            self._events[event.id] = captured
            self._places[event.id] = len(self._places)
            self._fates[Fate.ENQUEUED][event.id] = None

    def _published(
        self, sender: Flask, events: Iterable[Event], attempt: int, **extra: Any
    ) -> None:
        self._note(events, Fate.PUBLISHED, attempts=attempt)

    def _unrouted(
        self, sender: Flask, events: Iterable[Event], reason: str, **extra: Any
    ) -> None:
        self._note(events, Fate.UNROUTED, reason=reason)

    def _failed(
        self,
        sender: Flask,
        events: Iterable[Event],
        outcome: Outcome | None,
        error: str,
        attempt: int,
        **extra: Any,
    ) -> None:
        about = {"reason": error, "outcome": outcome, "attempts": attempt}
        self._note(events, Fate.RETAINED, **about)

    def _discarded(
        self, sender: Flask, events: Iterable[Event], reason: str, **extra: Any
    ) -> None:
        self._note(events, Fate.DISCARDED, reason=reason)

    def _dropped(
        self, sender: Flask, events: Iterable[Event], reason: str, **extra: Any
    ) -> None:
        self._note(events, Fate.DROPPED, reason=reason)

    def _dead(
        self, sender: Flask, events: Iterable[Event], reason: str, **extra: Any
    ) -> None:
        self._note(events, Fate.DEAD, reason=reason)

    def _broker_changed(self, sender: Flask, state: BrokerState, **extra: Any) -> None:
        with self._lock:
            self._broker_states.append(state)

    # Watching the broker.

    def _watch(self) -> None:
        """Watch what is sent to the broker, once there is one."""
        delivery = self._state.delivery_if_used()
        with self._lock:
            if delivery is None or self._faults is not None:
                return
            self._faults = FaultInjector.of(delivery.broker)
        self._faults.watch(self._sent)

    def _unwatch(self) -> None:
        if self._faults is not None:
            self._faults.unwatch(self._sent)

    def _sent(self, entries: Sequence[Entry]) -> None:
        with self._lock:
            for entry in sorted(entries, key=lambda entry: entry.sequence):
                self._sent_places[entry.event.id] = next(self._numbers)

    def _unit(self) -> Unit:
        scope = self._state.scopes.innermost()
        if scope is None:
            return "thread"
        return "request" if isinstance(scope, RequestScope) else "block"

    def _captured(self, event: Event, **about: Any) -> CapturedEvent:
        routed_to = self._router.queues(*event.target, event.headers)
        return CapturedEvent(event, self.medium, routed_to=routed_to, **about)

    def _note(self, events: Iterable[Event], fate: Fate, **about: Any) -> None:
        with self._lock:
            for event in self._in_order(events):
                known = self._events.get(event.id)
                captured = known or self._captured(event)
                # Two threads may report one event; a final fate stays final.
                if not captured.fate.final:
                    self._move(captured, fate, about)

    def _move(self, captured: CapturedEvent, fate: Fate, about: dict[str, Any]) -> None:
        if captured.fate is not Fate.ENQUEUED:
            self._fates[captured.fate].pop(captured.id, None)
        self._fates[fate][captured.id] = None
        about = {"reason": "", "outcome": None, **about}
        self._events[captured.id] = replace(captured, fate=fate, **about)

    def _in_order(self, events: Iterable[Event]) -> list[Event]:
        return sorted(events, key=lambda event: self._places.get(event.id, -1))


#: The records of all open captures.
_open_records: weakref.WeakSet[Record] = weakref.WeakSet()
