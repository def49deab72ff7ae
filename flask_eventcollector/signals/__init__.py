"""The blinker signals that report the fate of events and the broker's state.

The sender is the app object. Receivers must accept ``**extra``, since later versions
may add arguments. Type checkers check each receiver against its signal's protocol, for
example :class:`EventsPublishedReceiver`.

Outcomes that a caller of ``publish()`` waits for are signalled in the caller's thread,
all others in the flusher's thread. The app context is pushed in both cases. A receiver
may block its thread, but delays no network or disk I/O. If a receiver raises, the
exception is logged and the other receivers still run. Events that a receiver enqueues
are handed over when it returns, without waiting for confirms.

Each event gets exactly one of :data:`events_published`, :data:`events_unrouted`,
:data:`events_discarded` and :data:`events_dropped` as its final signal. For an event
that is left on disk when the process ends, that is sent by the process that adopts it.
"""

from __future__ import annotations

from .receivers import (
    BrokerStateChangedReceiver,
    EventEnqueuedReceiver,
    EventsDeadReceiver,
    EventsDiscardedReceiver,
    EventsDroppedReceiver,
    EventsPublishedReceiver,
    EventsUnroutedReceiver,
    PublishFailedReceiver,
    SpoolFileQuarantinedReceiver,
)
from .typed import TypedSignal

__all__ = [
    "BrokerStateChangedReceiver",
    "EventEnqueuedReceiver",
    "EventsDeadReceiver",
    "EventsDiscardedReceiver",
    "EventsDroppedReceiver",
    "EventsPublishedReceiver",
    "EventsUnroutedReceiver",
    "PublishFailedReceiver",
    "SpoolFileQuarantinedReceiver",
    "broker_state_changed",
    "event_enqueued",
    "events_dead",
    "events_discarded",
    "events_dropped",
    "events_published",
    "events_unrouted",
    "publish_failed",
    "spool_file_quarantined",
]

#: ``event`` (:class:`.Event`): it was added to a collector. Sent in the thread that
#: enqueues it.
event_enqueued: TypedSignal[EventEnqueuedReceiver] = TypedSignal("event-enqueued")

#: ``events`` (tuple of :class:`.Event`), ``attempt`` (int, from 1), ``elapsed``
#: (float): the broker confirmed the events, *elapsed* seconds after the first one's
#: hand-over.
events_published: TypedSignal[EventsPublishedReceiver] = TypedSignal("events-published")

#: ``events`` (tuple of :class:`.Event`), ``reason`` (str): the broker took the events,
#: but their exchange has put them into no queue. The settings allow that by
#: ``"unrouted": "discard"``, so they are done with.
events_unrouted: TypedSignal[EventsUnroutedReceiver] = TypedSignal("events-unrouted")

#: ``events`` (tuple of :class:`.Event`), ``outcome`` (:class:`.Outcome` or ``None``),
#: ``error`` (str), ``attempt`` (int; 0: they were never sent), ``first`` (bool): the
#: events are retained for retry. *outcome* is ``None`` if they were not sent, for
#: example because the broker is unreachable. Each retry that fails sends it again;
#: *first* is true only the first time that this process reports a failure of these
#: events.
publish_failed: TypedSignal[PublishFailedReceiver] = TypedSignal("publish-failed")

#: ``events`` (tuple of :class:`.Event`), ``reason`` (str): the events were discarded,
#: because their unit of work failed or was cleared, their transaction was not
#: committed, or another event of the same unit of work has their key.
events_discarded: TypedSignal[EventsDiscardedReceiver] = TypedSignal("events-discarded")

#: ``events`` (tuple of :class:`.Event`), ``reason`` (str): the events were lost to a
#: limit (``"overflow"``), have expired (``"expired"``), were purged (``"purged"``), or
#: were left at the end of the process.
events_dropped: TypedSignal[EventsDroppedReceiver] = TypedSignal("events-dropped")

#: ``events`` (tuple of :class:`.Event`), ``reason`` (str): the events were
#: dead-lettered, because the broker kept refusing them or can never accept them.
events_dead: TypedSignal[EventsDeadReceiver] = TypedSignal("events-dead")

#: ``path`` (:class:`~pathlib.Path`), ``reason`` (str), ``rescued`` (int): a damaged
#: spool file was renamed to *path*; *rescued* of its events were copied or delivered.
spool_file_quarantined: TypedSignal[SpoolFileQuarantinedReceiver] = TypedSignal(
    "spool-file-quarantined"
)

#: ``state`` (:class:`.BrokerState`), ``error`` (str): the broker is in a new state; an
#: app starts with :attr:`.BrokerState.IDLE`. *error* is the broker's problem, or
#: ``""``. Sent in the flusher's thread (after a ``close()``, in its caller's), in order
#: and at most a second late. If receivers block, the latest 100 changes wait for them.
#: A broker that is stalled for less than a second may not be reported as such.
broker_state_changed: TypedSignal[BrokerStateChangedReceiver] = TypedSignal(
    "broker-state-changed"
)
