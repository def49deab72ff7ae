"""Chooses what traces an app, by its settings and by what it has loaded.

Nothing of OpenTelemetry or Sentry is imported unless the app has done so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from ...config.settings import Config, Tracing, is_installed
from ...delivery.observations import Observer
from ...messages.encoding import EventEncoder
from .encoder import TracingEncoder

#: One of these must be installed.
_TRACERS = ("opentelemetry", "sentry_sdk")


def make_encoder(config: Config, **options: Any) -> EventEncoder:
    """An encoder whose events carry the trace context, if there can be one."""
    if config.tracing is Tracing.OFF or not any(map(is_installed, _TRACERS)):
        return EventEncoder(**options)
    return TracingEncoder(create_spans=config.create_spans, **options)


def span_observers(config: Config) -> Iterator[Observer]:
    """What makes spans, if the app has set up OpenTelemetry by now."""
    if _makes_spans(config):
        from .spans import SpanObserver

        yield SpanObserver()


def find_caller(config: Config) -> Callable[[], object] | None:
    """What finds the trace that a caller of ``publish()`` is in; ``None``: nothing."""
    if config.tracing is Tracing.AUTO and _makes_spans(config):
        from .opentelemetry import current_trace

        return current_trace
    return None


def _makes_spans(config: Config) -> bool:
    if config.tracing is Tracing.OFF or "opentelemetry.trace" not in sys.modules:
        return False
    from .opentelemetry import makes_spans

    return makes_spans()
