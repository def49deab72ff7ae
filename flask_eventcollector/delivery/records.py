"""The kinds of log records. Every record is written here."""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping
from contextlib import suppress

from flask_eventcollector.delivery.forks import no_fork
from flask_eventcollector.messages.wording import printable

logger = logging.getLogger("flask_eventcollector")

#: What a record about events has as attributes.
_FEW = ("queue", "ids", "count")
_EVENTS = (*_FEW, "reason", "attempt")
#: What a record about an outage has.
_OUTAGE = ("reason", "count", "broker")

_INFO, _WARNING, _ERROR = logging.INFO, logging.WARNING, logging.ERROR


@enum.unique
class Kind(enum.Enum):
    """A kind of log record: its level, its text with places, and its attributes.

    Error trackers group records by that text, so what has different causes or cures is
    of different kinds.
    """

    # The broker.
    BROKER_CONNECTED = (
        _INFO,
        "Connected to the broker at %(broker)s.",
        ("broker", "attempt"),
    )
    BROKER_RECONNECTED = (
        _INFO,
        "Reconnected to the broker at %(broker)s.",
        ("broker", "attempt"),
    )
    BROKER_UNAVAILABLE = (
        _WARNING,
        "Broker unavailable (%(state)s): %(reason)s. %(backlog)s",
        _OUTAGE,
    )
    BROKER_STILL_UNAVAILABLE = (
        _WARNING,
        (
            "Broker still unavailable (%(state)s) after %(seconds)d s: %(reason)s."
            " %(backlog)s"
        ),
        _OUTAGE,
    )
    BROKER_AVAILABLE = (
        _WARNING,
        "Broker available again after %(seconds)d s. %(backlog)s",
        ("count", "broker"),
    )
    BROKER_PROBLEM = (
        _WARNING,
        "Broker problem: %(reason)s",
        ("reason", "broker"),
    )
    BROKER_MEMORY = (
        _WARNING,
        "Broker is memory://, so events stay in this process",
        ("broker",),
    )
    BROKER_MAY_LOSE = (
        _WARNING,
        "Messages may be lost silently: %(reason)s",
        ("reason",),
    )
    BROKER_MISSING = (
        _ERROR,
        "No broker, so each event will fail: %(reason)s",
        ("reason",),
    )
    BROKER_FAILED = (
        _ERROR,
        "Broker connection failed unexpectedly",
        ("reason",),
    )

    # Events.
    REFUSED_NACKED = (
        _WARNING,
        (
            "Broker refused %(attempts)s for %(queue)s: %(reason)s (nacked);"
            " retained for retry."
        ),
        _EVENTS,
    )
    REFUSED_RETURNED = (
        _WARNING,
        (
            "Broker refused %(attempts)s for %(queue)s: %(reason)s (returned);"
            " retained for retry."
        ),
        _EVENTS,
    )
    DEAD = (
        _ERROR,
        "Dead-lettered %(events)s for %(queue)s: %(reason)s.",
        _EVENTS,
    )
    DROPPED_OVERFLOW = (
        _ERROR,
        "Dropped %(events)s for %(queue)s: overflow.",
        _EVENTS,
    )
    DROPPED_EXPIRED = (
        _WARNING,
        "Dropped %(events)s for %(queue)s: expired.",
        _EVENTS,
    )
    DROPPED_PURGED = (
        _ERROR,
        "Dropped %(events)s for %(queue)s: purged.",
        _EVENTS,
    )
    DROPPED_AT_END = (
        _ERROR,
        "Dropped %(events)s for %(queue)s: process ended before confirmation.",
        _EVENTS,
    )
    DROPPED_LATE = (
        _ERROR,
        "Dropped %(events)s for %(queue)s: published after the last flush.",
        _EVENTS,
    )
    DISCARDED_ABANDONED = (
        _WARNING,
        "Discarded %(events)s for %(queue)s: collector abandoned.",
        _EVENTS,
    )
    DISCARDED_UNPUBLISHED = (
        _WARNING,
        "Discarded %(events)s for %(queue)s: never published.",
        _EVENTS,
    )
    DISCARDED_UNCOMMITTED = (
        _WARNING,
        (
            "Discarded %(events)s for %(queue)s: the transaction was not committed."
            " Call commit() before its session is closed or removed."
        ),
        _EVENTS,
    )
    LEFT_UNPUBLISHED = (
        _WARNING,
        (
            "Left unpublished %(events)s for %(queue)s: %(reason)s; the thread's next"
            " publish() sends them. Use 'with events.auto_publish():' around each job,"
            " or set EVENTCOLLECTOR_AT_CONTEXT_END."
        ),
        (*_FEW, "reason"),
    )
    DELAYED_IN_MEMORY = (
        _WARNING,
        (
            "Delayed events are in memory only: those that are not due when this"
            " process ends are lost. Set EVENTCOLLECTOR_BACKLOG to 'spool' to keep them"
        ),
        (),
    )
    ENQUEUED_LATE = (
        _WARNING,
        (
            "Enqueued %(events)s for %(queue)s: after close() or the last flush; once"
            " published, it stays in the spool, or is dropped."
        ),
        _FEW,
    )
    ENQUEUED_INHERITED = (
        _WARNING,
        (
            "Enqueued in an inherited %(scope)s: it was begun before this process was"
            " forked, so nothing publishes it here. Use 'with events.auto_publish():'"
            " in the child process"
        ),
        (),
    )

    # The outbox.
    RELAY_ACTIVE = (
        _INFO,
        "Relay of %(app)r is active: it sends what is in the outbox.",
        (),
    )
    RELAY_STANDBY = (
        _INFO,
        "Relay of %(app)r stands by: another one is active.",
        (),
    )

    OUTBOX_PROBLEM = (
        _WARNING,
        "Outbox problem: %(reason)s",
        ("reason",),
    )
    OUTBOX_LEFT = (
        _WARNING,
        "Left %(events)s in the outbox for other processes.",
        ("count",),
    )

    # The spool.
    SPOOL_FOLDER = (
        _INFO,
        "Spool folder of %(app)r: %(path)s",
        (),
    )
    SPOOL_PROBLEM = (
        _WARNING,
        "Spool problem: %(reason)s",
        ("reason",),
    )
    SPOOL_PROBLEM_UNSPOOLED = (
        _WARNING,
        "Spool problem: %(reason)s. %(events)s in memory only.",
        ("reason", "count"),
    )
    SPOOL_QUARANTINED = (
        _ERROR,
        "Quarantined spool file %(path)s: %(reason)s. %(events)s copied or delivered.",
        ("reason", "count"),
    )
    SPOOL_LEFT = (
        _WARNING,
        "Left %(events)s in the spool for the next process.",
        ("count",),
    )
    ADOPTION_FAILED = (
        _ERROR,
        "Adoption failed at the first request",
        ("reason",),
    )

    # The dashboard.
    DASHBOARD_ACTION = (
        _WARNING,
        "Dashboard: %(user)s asked to %(action)s %(events)s.",
        ("user", "action", "queue", "ids", "count"),
    )
    DASHBOARD_CLOSED = (
        _ERROR,
        "Dashboard closed: authorize() failed",
        ("reason",),
    )

    # Databases.
    OUTBOX_ELSEWHERE = (
        _WARNING,
        (
            "Events are written to %(outbox)s, but their transaction has changed"
            " %(database)s: these do not commit together. Pass make_outbox_table() the"
            " metadata of that database, or use Session(twophase=True)"
        ),
        (),
    )
    SAVEPOINT_COMMITS = (
        _WARNING,
        (
            "SQLite begins a transaction at a savepoint, so releasing it commits, and a"
            " later rollback takes nothing back. Create the engine with"
            " connect_args={'autocommit': False} (Python 3.12 or later), or emit BEGIN"
        ),
        (),
    )

    # What the app's own code, or a fault of the library, has broken.
    RECEIVER_FAILED = (
        _ERROR,
        "Signal receiver failed: %(signal)s",
        ("reason",),
    )
    PUBLISH_ON_FAILED = (
        _ERROR,
        "EVENTCOLLECTOR_PUBLISH_ON failed; events are discarded",
        ("reason",),
    )
    REQUEST_TEARDOWN_FAILED = (
        _ERROR,
        "Request teardown failed; events may not be published",
        ("reason",),
    )
    CONTEXT_TEARDOWN_FAILED = (
        _ERROR,
        "App context teardown failed; events may not be published",
        ("reason",),
    )
    SESSION_HOOK_FAILED = (
        _ERROR,
        "Session hook failed: %(hook)s; events may be published or discarded wrongly",
        ("reason",),
    )
    THREAD_FAILED = (
        _ERROR,
        "Background thread failed: %(thread)s",
        ("reason",),
    )
    OBSERVER_FAILED = (
        _ERROR,
        "Observer failed: %(observer)s",
        ("reason",),
    )
    TRACING_FAILED = (
        _ERROR,
        "An event was enqueued without its trace context, or its span",
        ("reason",),
    )
    NO_THREAD = (
        _WARNING,
        "No thread could be started: %(reason)s. Events wait until one can.",
        ("reason",),
    )

    def __init__(self, level: int, text: str, attributes: tuple[str, ...]) -> None:
        self.level = level
        #: ``record.msg``
        self.text = text
        #: Each one begins with ``eventcollector_`` in a record.
        self.attributes = attributes

    @property
    def event(self) -> str:
        """The kind's name in a record."""
        return self.name.lower()


def log_record(kind: Kind, /, **values: str | int) -> None:
    """Write a record. It has no payload, no header and no credential.

    *values* fill the places in the kind's text, and its attributes. An attribute whose
    value is unknown, and so empty, is left out.
    """
    _write(kind, values)


def log_failure(kind: Kind, error: BaseException, /, **values: str | int) -> None:
    """Write a record with the traceback of *error*."""
    _write(kind, {"reason": type(error).__name__, **values}, error)


def _write(
    kind: Kind, values: Mapping[str, str | int], error: BaseException | None = None
) -> None:
    known = {name: values.get(name, "") for name in kind.attributes}
    extra = {f"eventcollector_{name}": v for name, v in known.items() if v != ""}
    # Names may be input of users: they must neither add lines nor steer a terminal.
    shown = {n: printable(v) if isinstance(v, str) else v for n, v in values.items()}
    # A logging handler that raises would end a thread or fail a request.
    with suppress(Exception), no_fork():
        logger.log(
            kind.level,
            kind.text,
            *([shown] if shown else []),
            exc_info=error,
            extra={"eventcollector_event": kind.event, **extra},
            stacklevel=3,
        )
