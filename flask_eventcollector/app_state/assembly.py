"""Makes single parts of an app from its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..brokers.memory import MemoryBroker
from ..brokers.rabbitmq import RabbitMQBroker
from ..config.broker_url import BrokerURL
from ..config.settings import (
    Config,
    InvalidText,
    Metrics,
    Overflow,
    SpoolSync,
    choose_credentials,
)
from ..delivery.backoff import full_jitter
from ..delivery.broker import Broker
from ..delivery.ledger import Ledger
from ..delivery.limits import Limits
from ..delivery.observations import Observer
from ..messages.cloudevents import CloudEvents
from ..messages.encoding import Default, EventEncoder
from ..monitoring.history.observer import HistoryObserver
from ..monitoring.tracing.choice import make_encoder, span_observers
from ..stores.spool.adopter import PAGE, PAGE_BYTES
from ..stores.spool.folder import Folder
from ..stores.spool.spool import Spool

if TYPE_CHECKING:
    from ..monitoring.outbox import Look


def encoder_of(config: Config, default: Default) -> EventEncoder:
    """What encodes the app's events.

    :param default: converts the types that only the app's JSON provider knows.
    """
    return make_encoder(
        config,
        exchange=config.exchange,
        internal=[name for name, o in config.exchanges.items() if o.internal],
        max_event_bytes=config.max_event_bytes,
        default=default,
        replace_invalid_text=_replaces_text(config),
        encoder=config.encoder,
        before_enqueue=config.before_enqueue,
        batch_headers=config.batch_headers,
        cloudevents=_cloudevents_of(config),
    )


def _cloudevents_of(config: Config) -> CloudEvents | None:
    if not config.cloudevents or config.cloudevents_source is None:
        return None
    return CloudEvents(
        config.cloudevents,
        config.cloudevents_source,
        config.cloudevents_prefix,
        replace_invalid_text=_replaces_text(config),
    )


def _replaces_text(config: Config) -> bool:
    return config.invalid_text is InvalidText.REPLACE


def limits_of(config: Config, *, durable: bool) -> Limits:
    """The limits of a process.

    :param durable: whether a store on disk keeps unconfirmed events.
    """
    return Limits(
        max_events=config.max_events,
        max_bytes=config.max_bytes,
        max_dead_events=config.max_dead_events,
        max_in_flight=config.max_in_flight,
        drop_oldest=config.overflow is Overflow.DROP_OLDEST,
        reject=config.overflow is Overflow.REJECT,
        dead_after=config.dead_after,
        delay=_delay_of(config),
        durable=durable,
    )


def _delay_of(config: Config) -> Callable[[int], float]:
    return partial(full_jitter, base=config.retry_delay, cap=config.retry_max_delay)


def page_of(
    config: Config, events: int = PAGE, size: int = PAGE_BYTES
) -> tuple[int, int]:
    """How many events of other processes, and bytes, may be in memory."""
    return (
        min(events, max(1, config.max_events // 4)),
        min(size, max(1, config.max_bytes // 4)),
    )


def spool_of(config: Config, ledger: Ledger, folder: Folder, name: str) -> Spool:
    """The spool of a process, in *folder*."""
    return Spool(
        ledger,
        folder,
        patience=config.confirm_timeout,
        page=page_of(config),
        full_sync=config.spool_sync is SpoolSync.FULL,
        name=name,
    )


def broker_of(config: Config, urls: Sequence[BrokerURL], name: str) -> Broker:
    """The broker at *urls*, as a process has it."""
    if urls[0].scheme == "memory":
        return MemoryBroker(topology=config.topology)
    return RabbitMQBroker(
        urls,
        heartbeat=config.heartbeat,
        delay=_delay_of(config),
        name=name,
        topology=config.topology,
        credentials=choose_credentials(config),
        keyfile_password=config.keyfile_password,
    )


def observers_of(config: Config, app: str) -> Iterator[Observer]:
    """What is told of the events of a process."""
    if config.history_dir is not None:
        yield HistoryObserver(config.history_dir, config.spool_name or app)
    # Only those who use them have the packages.
    if Metrics.PROMETHEUS in config.metrics:
        from ..monitoring.prometheus import PrometheusMetrics

        yield PrometheusMetrics(app, config.queues)
    if Metrics.OPENTELEMETRY in config.metrics:
        from ..monitoring.opentelemetry import OpenTelemetryMetrics

        yield OpenTelemetryMetrics(config.queues)
    yield from span_observers(config)


def outbox_observers_of(config: Config, app: str, look: Look) -> Iterator[Observer]:
    """What tells of all rows of the outbox, in a relay."""
    if Metrics.PROMETHEUS in config.metrics:
        from ..monitoring.prometheus import PrometheusOutbox

        yield PrometheusOutbox(app, look)
    if Metrics.OPENTELEMETRY in config.metrics:
        from ..monitoring.opentelemetry import OpenTelemetryOutbox

        yield OpenTelemetryOutbox(look)
