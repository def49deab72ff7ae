"""The types of the settings in an app's configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

from ..messages.draft import BeforeEnqueue, Encoder
from .credentials import CredentialsSource
from .settings import PublishRule

_Metrics = Literal["prometheus", "opentelemetry"]


class Settings(TypedDict, total=False):
    """The settings as a dict whose keys and values type checkers check.

    No key is required::

        settings: Settings = {
            "EVENTCOLLECTOR_BROKER_URL": "amqp://localhost",
            "EVENTCOLLECTOR_BACKLOG": "spool",
        }
        app.config.from_mapping(settings)

    For the meaning of a key, see the table of all settings.
    """

    EVENTCOLLECTOR_BROKER_URL: str | list[str] | tuple[str, ...] | None
    EVENTCOLLECTOR_CREDENTIALS: CredentialsSource | str | None
    EVENTCOLLECTOR_PASSWORD_FILE: str | os.PathLike[str] | None
    EVENTCOLLECTOR_KEYFILE_PASSWORD: str | Callable[[], str] | None
    EVENTCOLLECTOR_EXCHANGE: str
    EVENTCOLLECTOR_QUEUES: Mapping[str, Mapping[str, Any] | None]
    EVENTCOLLECTOR_EXCHANGES: Mapping[str, Mapping[str, Any]]
    EVENTCOLLECTOR_PUBLISH_ON: Literal["success", "always"] | PublishRule
    EVENTCOLLECTOR_CONFIRM_TIMEOUT: float
    EVENTCOLLECTOR_RECONNECT_TIMEOUT: float
    EVENTCOLLECTOR_BACKLOG: Literal["memory", "spool"]
    EVENTCOLLECTOR_SPOOL_DIR: str | os.PathLike[str] | None
    EVENTCOLLECTOR_SPOOL_NAME: str | None
    EVENTCOLLECTOR_SPOOL_SYNC: Literal["normal", "full"]
    EVENTCOLLECTOR_MAX_EVENTS: int
    EVENTCOLLECTOR_MAX_BYTES: int
    EVENTCOLLECTOR_MAX_DEAD_EVENTS: int
    EVENTCOLLECTOR_OVERFLOW: Literal["drop-newest", "drop-oldest", "reject"]
    EVENTCOLLECTOR_MAX_IN_FLIGHT: int
    EVENTCOLLECTOR_DEAD_AFTER: float
    EVENTCOLLECTOR_RETRY_DELAY: float
    EVENTCOLLECTOR_RETRY_MAX_DELAY: float
    EVENTCOLLECTOR_OUTBOX_RELAY: Literal["own", "external"]
    EVENTCOLLECTOR_OUTBOX_LEASE: float
    EVENTCOLLECTOR_SHUTDOWN_TIMEOUT: float
    EVENTCOLLECTOR_MAX_EVENT_BYTES: int
    EVENTCOLLECTOR_ENCODER: Encoder | str | None
    EVENTCOLLECTOR_BEFORE_ENQUEUE: BeforeEnqueue | str | None
    EVENTCOLLECTOR_BATCH_HEADERS: bool
    EVENTCOLLECTOR_CLOUDEVENTS: Literal[False, "structured", "binary"]
    EVENTCOLLECTOR_CLOUDEVENTS_SOURCE: str | None
    EVENTCOLLECTOR_CLOUDEVENTS_PREFIX: Literal["ce-", "cloudEvents_"]
    EVENTCOLLECTOR_INVALID_TEXT: Literal["refuse", "replace"]
    EVENTCOLLECTOR_HEARTBEAT: int
    EVENTCOLLECTOR_AUTOFLUSH: bool
    EVENTCOLLECTOR_AT_CONTEXT_END: Literal["warn", "publish", "keep"]
    EVENTCOLLECTOR_HISTORY_DIR: str | os.PathLike[str] | None
    EVENTCOLLECTOR_METRICS: _Metrics | list[_Metrics] | tuple[_Metrics, ...]
    EVENTCOLLECTOR_TRACING: Literal["auto", "links", False]
    EVENTCOLLECTOR_CREATE_SPANS: bool
    EVENTCOLLECTOR_TESTING_BROKER: bool
