"""What each signal passes to its receivers.

A receiver gets the app object, then keyword arguments. It names those that it needs and
collects the others in ``**extra``. Type checkers refuse a receiver without ``**extra``:
it could not take ``_later``, which stands for the arguments of later versions and is
never sent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from ..events import BrokerState, Event, Outcome


class EventEnqueuedReceiver(Protocol):
    """A receiver of :data:`~flask_eventcollector.signals.event_enqueued`."""

    def __call__(self, sender: Any, /, *, event: Event, _later: Any = ...) -> object:
        """React to a signal.

        :param sender: the Flask app.
        :param event: the event that was added to a collector.
        """


class EventsPublishedReceiver(Protocol):
    """A receiver of :data:`~flask_eventcollector.signals.events_published`."""

    def __call__(
        self,
        sender: Any,
        /,
        *,
        events: tuple[Event, ...],
        attempt: int,
        elapsed: float,
        _later: Any = ...,
    ) -> object:
        """React to a signal.

        :param sender: the Flask app.
        :param events: the events that the broker confirmed.
        :param attempt: how many times they were sent, at least 1.
        :param elapsed: the longest time in seconds between an event's hand-over and its
            confirm.
        """


class EventsUnroutedReceiver(Protocol):
    """A receiver of :data:`~flask_eventcollector.signals.events_unrouted`."""

    def __call__(
        self,
        sender: Any,
        /,
        *,
        events: tuple[Event, ...],
        reason: str,
        _later: Any = ...,
    ) -> object:
        """React to a signal.

        :param sender: the Flask app.
        :param events: the events that no queue gets.
        :param reason: the exchange and the routing key for which nothing is bound.
        """


class PublishFailedReceiver(Protocol):
    """A receiver of :data:`~flask_eventcollector.signals.publish_failed`."""

    def __call__(
        self,
        sender: Any,
        /,
        *,
        events: tuple[Event, ...],
        outcome: Outcome | None,
        error: str,
        attempt: int,
        first: bool,
        _later: Any = ...,
    ) -> object:
        """React to a signal.

        :param sender: the Flask app.
        :param events: the events that are retained for retry.
        :param outcome: the outcome of the attempt. ``None``: they were not sent, for
            example because the broker is unreachable.
        :param error: what the broker or the connection reported.
        :param attempt: how many times they were sent; 0: never.
        :param first: whether this process reports a failure of these events for the
            first time. Count only these to count events rather than attempts.
        """


class EventsDiscardedReceiver(Protocol):
    """A receiver of :data:`~flask_eventcollector.signals.events_discarded`."""

    def __call__(
        self,
        sender: Any,
        /,
        *,
        events: tuple[Event, ...],
        reason: str,
        _later: Any = ...,
    ) -> object:
        """React to a signal.

        :param sender: the Flask app.
        :param events: the events that were discarded.
        :param reason: why their unit of work failed, what ended the transaction that
            they belonged to, that another event has their key, or ``"cleared"``.
        """


class EventsDroppedReceiver(Protocol):
    """A receiver of :data:`~flask_eventcollector.signals.events_dropped`."""

    def __call__(
        self,
        sender: Any,
        /,
        *,
        events: tuple[Event, ...],
        reason: str,
        _later: Any = ...,
    ) -> object:
        """React to a signal.

        :param sender: the Flask app.
        :param events: the events that were lost.
        :param reason: ``"overflow"`` if a limit was reached, ``"expired"``,
            ``"purged"``, or how they were left at the end of the process.
        """


class EventsDeadReceiver(Protocol):
    """A receiver of :data:`~flask_eventcollector.signals.events_dead`."""

    def __call__(
        self,
        sender: Any,
        /,
        *,
        events: tuple[Event, ...],
        reason: str,
        _later: Any = ...,
    ) -> object:
        """React to a signal.

        :param sender: the Flask app.
        :param events: the events that were dead-lettered.
        :param reason: why the broker refused them.
        """


class SpoolFileQuarantinedReceiver(Protocol):
    """A receiver of :data:`~flask_eventcollector.signals.spool_file_quarantined`."""

    def __call__(
        self,
        sender: Any,
        /,
        *,
        path: Path,
        reason: str,
        rescued: int,
        _later: Any = ...,
    ) -> object:
        """React to a signal.

        :param sender: the Flask app.
        :param path: the new name of the damaged file.
        :param reason: what is wrong with the file.
        :param rescued: how many of its events were intact, and were copied or
            delivered.
        """


class BrokerStateChangedReceiver(Protocol):
    """A receiver of :data:`~flask_eventcollector.signals.broker_state_changed`."""

    def __call__(
        self,
        sender: Any,
        /,
        *,
        state: BrokerState,
        error: str,
        _later: Any = ...,
    ) -> object:
        """React to a signal.

        :param sender: the Flask app.
        :param state: the broker's new state.
        :param error: the broker's problem; ``""``: none.
        """
