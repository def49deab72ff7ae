"""Keeps OpenTelemetry's instrumentations out of the library's own work."""

from __future__ import annotations

import sys


def suppress_instrumentation_in_this_thread() -> None:
    """Let instrumentations make no spans in this thread, and change no message.

    The one of pika gives each message a span without a parent and its own
    ``traceparent``; those of databases make a trace of each look at the outbox. Nothing
    is done if the app has not loaded OpenTelemetry.

    https://github.com/open-telemetry/opentelemetry-python-contrib/blob/main/opentelemetry-instrumentation/src/opentelemetry/instrumentation/utils.py
    """
    if "opentelemetry.context" in sys.modules:
        from opentelemetry import context

        context.attach(context.set_value("suppress_instrumentation", True))
