"""Collects events during a request, then publishes them if the request succeeds."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .collecting.blocks import AutoPublishingEventCollector
    from .collecting.collector import CollectorLike
    from .config.credentials import Credentials
    from .config.keys import Settings
    from .config.settings import Config
    from .consuming.received import Received, received
    from .consuming.table import make_inbox_table
    from .errors import (
        BacklogFull,
        ConfigurationError,
        EncodingError,
        EventCollectorError,
    )
    from .events import (
        BrokerState,
        DeadEvent,
        Event,
        Outcome,
        Properties,
        PublishResult,
        Stats,
        TargetProblem,
    )
    from .extension import EventCollector
    from .messages.draft import EventDraft
    from .messages.options import EventOptions
    from .monitoring.health import Health, HealthStatus
    from .signals import (
        broker_state_changed,
        event_enqueued,
        events_dead,
        events_discarded,
        events_dropped,
        events_published,
        events_unrouted,
        publish_failed,
        spool_file_quarantined,
    )
    from .transactions.outbox_table import autovacuum_ddl, make_outbox_table

__all__ = [  # noqa: RUF022 - grouped, not sorted
    # The extension.
    "AutoPublishingEventCollector",
    "EventCollector",
    # For database transactions.
    "autovacuum_ddl",
    "make_outbox_table",
    # For consumers.
    "make_inbox_table",
    "received",
    # Types to annotate with.
    "CollectorLike",
    "EventDraft",
    "EventOptions",
    "Settings",
    # Plain values.
    "BrokerState",
    "Config",
    "Credentials",
    "DeadEvent",
    "Event",
    "Health",
    "HealthStatus",
    "Outcome",
    "Properties",
    "PublishResult",
    "Received",
    "Stats",
    "TargetProblem",
    # Signals.
    "broker_state_changed",
    "event_enqueued",
    "events_dead",
    "events_discarded",
    "events_dropped",
    "events_published",
    "events_unrouted",
    "publish_failed",
    "spool_file_quarantined",
    # Errors.
    "BacklogFull",
    "ConfigurationError",
    "EncodingError",
    "EventCollectorError",
]

#: Searched in turn for a name. pytest loads this package's plugin wherever it is
#: installed, even in projects without Flask. So the package imports modules lazily.
_MODULES = (
    "errors",
    "events",
    "signals",
    "config.settings",
    "config.credentials",
    "config.keys",
    "collecting.collector",
    "collecting.blocks",
    "consuming.received",
    "consuming.table",
    "messages.draft",
    "messages.options",
    "monitoring.health",
    "extension",
    "transactions.outbox_table",
)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        modules = (importlib.import_module(f".{m}", __name__) for m in _MODULES)
        value = next(vars(module)[name] for module in modules if name in vars(module))
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
