"""The functions that Flask calls during requests, app contexts or shells."""

from __future__ import annotations

import os
import sys
from typing import Any

import flask
from flask import Flask

from . import contexts
from .app_state import AppState
from .delivery.process import current_process
from .delivery.records import Kind, log_failure, log_record
from .errors import ConfigurationError


class Hooks:
    """Publishes or discards what a request collected, when Flask tears it down.

    The app's list of teardown functions keeps this object alive.
    """

    def __init__(self, state: AppState) -> None:
        self._state = state
        #: The processes that have started to handle requests.
        self._served: set[object] = set()
        #: The last process that was told that it has no broker.
        self._told: object = None

    def register(self, app: Flask) -> None:
        """Register the hooks below with *app*."""
        flask.request_started.connect(self._on_request_started, app)
        app.teardown_request(self._on_teardown_request)
        app.teardown_appcontext(self._on_teardown_appcontext)
        self._state.on_app_context_end = self._on_appcontext_tearing_down
        flask.request_finished.connect(self._on_request_finished, app)
        flask.got_request_exception.connect(self._on_request_exception, app)
        # Before the app's own functions, whose names take precedence.
        app.shell_context_processors.insert(0, self._on_shell)
        if _is_server():
            self._has_broker()

    def _on_request_started(self, sender: Flask, **extra: Any) -> None:
        process = current_process()
        if process not in self._served:
            self._begin_to_serve()
            self._served.add(process)
        delivery = self._state.delivery_if_used()
        if delivery is not None:
            delivery.note_use()

    def _begin_to_serve(self) -> None:
        """At a process's first request, find out what its first event would.

        That is whether there is a broker, and what dead processes have left, be it for
        others.
        """
        try:
            if self._has_broker():
                self._state.delivery_with_orphans()
        except Exception as error:
            log_failure(Kind.ADOPTION_FAILED, error)

    def _has_broker(self) -> bool:
        """Whether one is configured; if not, the log says so, once in each process."""
        try:
            self._state.check_broker()
        except ConfigurationError as error:
            if self._told != (process := current_process()):
                self._told = process
                log_record(Kind.BROKER_MISSING, reason=str(error))
            return False
        return True

    def _on_request_finished(
        self, sender: Flask, response: flask.Response, **extra: Any
    ) -> None:
        scope = contexts.current_request(sender, self._state.scopes)
        if scope is not None:
            scope.status = response.status_code

    def _on_request_exception(
        self, sender: Flask, exception: BaseException, **extra: Any
    ) -> None:
        scope = contexts.current_request(sender, self._state.scopes)
        if scope is not None:
            scope.error = exception

    def _on_teardown_request(self, error: BaseException | None = None) -> None:
        scope = contexts.current_request(self._state.app, self._state.scopes)
        if scope is None:
            return
        if error is not None:
            scope.error = error
        scope.torn_down = True
        scope.finish(self._state.config.publish_on)
        # Noted afterwards: if a signal handler raises before, the teardown of the app
        # context finishes it.
        contexts.note_torn_down(scope)

    def _on_teardown_appcontext(self, error: BaseException | None = None) -> None:
        for scope in contexts.unfinished():
            if error is not None and scope.error is None:
                scope.error = error
            scope.finish(self._state.config.publish_on)
            contexts.note_finished(scope)
        use = contexts.current_use()
        if use is not None:
            use.end(self._state.config.at_context_end, error)
            contexts.forget_use()

    def _on_appcontext_tearing_down(
        self, sender: Flask, exc: BaseException | None = None, **extra: Any
    ) -> None:
        # Other teardown functions may have enqueued events after this one.
        self._on_teardown_appcontext(exc)

    def _on_shell(self) -> dict[str, Any]:
        # Flask calls this only for its shell, where a user waits for each event.
        self._state.autoflush = True
        return {"events": self._state.events}


def _is_server() -> bool:
    """Whether a server for production is loading the app.

    Then it is configured completely by now, as a rule; a factory for tests may still
    set ``TESTING``. gunicorn leaves its name in the environment.
    """
    name = os.environ.get("SERVER_SOFTWARE", "")
    return "uwsgi" in sys.modules or name.startswith("gunicorn/")
