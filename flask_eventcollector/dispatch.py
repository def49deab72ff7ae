"""Sends signals to an app's receivers, isolating their failures."""

from __future__ import annotations

import weakref
from contextlib import ExitStack, nullcontext
from typing import Any

from blinker import NamedSignal
from flask import Flask

from .collecting.scopes import Scopes
from .contexts import borrowed_app_context, current_app
from .delivery.records import Kind, log_failure
from .signals import event_enqueued


class Dispatcher:
    """Calls the receivers of one app, to which it holds a weak reference."""

    def __init__(self, app: Flask, scopes: Scopes) -> None:
        self._app = weakref.ref(app)
        self._scopes = scopes

    def send(self, signal: NamedSignal, arguments: dict[str, Any]) -> None:
        """Call the signal's receivers in this thread; blocks as long as they do."""
        app = self._app()
        if app is None or not signal.receivers:
            return
        receivers = list(signal.receivers_for(app))
        with ExitStack() as stack:
            if receivers and current_app() is not app:
                stack.enter_context(borrowed_app_context(app))
            for receiver in receivers:
                self._call(app, signal, receiver, arguments)

    def _call(
        self, app: Flask, signal: NamedSignal, receiver: Any, arguments: dict[str, Any]
    ) -> None:
        # What a receiver of event_enqueued enqueues belongs to the same unit of work.
        own_scope = signal is not event_enqueued
        with self._scopes.background() if own_scope else nullcontext():
            try:
                app.ensure_sync(receiver)(app, **arguments)
            except Exception as error:
                log_failure(Kind.RECEIVER_FAILED, error, signal=signal.name)
