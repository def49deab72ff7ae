"""Sends signals to an app's receivers, isolating their failures."""

from __future__ import annotations

import weakref
from contextlib import ExitStack, nullcontext
from contextvars import copy_context
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
        if receivers := list(signal.receivers_for(app)):
            # A destructor may come here in the middle of a set() of a context variable.
            # CPython before 3.12 crashes if another is then set in the same context.
            copy_context().run(self._call_all, app, signal, receivers, arguments)

    def _call_all(
        self,
        app: Flask,
        signal: NamedSignal,
        receivers: list[Any],
        arguments: dict[str, Any],
    ) -> None:
        with ExitStack() as stack:
            if current_app() is not app:
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
