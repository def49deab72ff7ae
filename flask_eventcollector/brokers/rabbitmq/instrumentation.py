"""Keeps OpenTelemetry's instrumentation of pika away from the library's connection."""

from __future__ import annotations

import sys


def suppress_instrumentation_in_this_thread() -> None:
    """Let instrumentations make no spans in this thread, and change no message.

    The one of pika gives each message a span without a parent and its own
    ``traceparent``. The library makes its own spans, in another thread. Nothing is done
    if the app has not loaded OpenTelemetry.

    https://github.com/open-telemetry/opentelemetry-python-contrib/tree/main/instrumentation/opentelemetry-instrumentation-pika
    """
    if "opentelemetry.context" in sys.modules:
        from opentelemetry import context

        context.attach(context.set_value("suppress_instrumentation", True))
