"""Finds the scope of a request on Flask's context objects.

The scope is stored on the context *object*, not on ``g``: in Flask 3.1, requests that
are nested or run inside an outer app context share one ``g``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flask
import flask.globals

from .collecting.app_contexts import Use
from .collecting.collector import CollectorLike
from .collecting.requests import RequestScope
from .collecting.scopes import Scopes

#: Flask 3.2 merges both kinds of contexts and deprecates ``request_ctx``.
_request_ctx = vars(flask.globals).get("request_ctx", flask.globals.app_ctx)

#: The context objects behind the proxies; called for every event.
_app_context: Callable[[], Any] = flask.globals.app_ctx._get_current_object  # type: ignore[attr-defined]
_request_context: Callable[[], Any] = _request_ctx._get_current_object

_SCOPE = "_eventcollector_scope"
_UNFINISHED = "_eventcollector_unfinished"
_TORN_DOWN = "_eventcollector_torn_down"
_USE = "_eventcollector_use"
_INHERITED = "_eventcollector_inherited"


def current_app() -> flask.Flask | None:
    """The app of the current app context; ``None``: there is no context."""
    if not flask.has_app_context():
        return None
    app: flask.Flask = _app_context().app
    return app


def current_endpoint() -> str:
    """The rule and view of the current request; ``""``: there is no request.

    For example ``POST /orders/<int:id> (orders.create)``. The path itself may contain
    personal data.
    """
    if not flask.has_request_context():
        return ""
    request = flask.request
    rule = "" if request.url_rule is None else request.url_rule.rule
    return f"{request.method} {rule} ({request.endpoint})" if rule else request.method


def current_request(app: flask.Flask, scopes: Scopes) -> RequestScope | None:
    """The scope of *app*'s current request; ``None``: there is no request."""
    if flask.has_request_context():
        context = _request_context()
        if context.app is not app:
            return None
        scope: RequestScope | None = vars(context).get(_SCOPE)
        if scope is None:
            scope = vars(context)[_SCOPE] = RequestScope(scopes)
            scope.is_inherited = _INHERITED in vars(context)
    else:
        scope = _ending_request(app)
        if scope is None:
            return None
    # Another extension's teardown may raise, so that ours never runs. Then the app
    # context's teardown publishes or discards, so it must know its requests.
    _unfinished().setdefault(scope)
    return scope


def note_torn_down(scope: RequestScope) -> None:
    """Note that the current request's own teardown has run."""
    app_context = vars(_app_context())
    note_finished(scope)
    # The app context ends with the request if the request has pushed it. Otherwise the
    # request runs inside it, as in many tests. In Flask 3.2 a request is its app
    # context, and stays current until that is torn down.
    for _, pushed in vars(_request_context()).get("_cv_tokens", ()):
        if pushed is not None:
            app_context[_TORN_DOWN] = scope


def connection_of_process() -> object | None:
    """An object that lives as long as this process, if forked for one connection.

    Werkzeug's server forks in this way with ``processes``. Such a process exits by
    ``os._exit()`` once its connection is closed; before that, only finalizers of its
    objects run. See ``ForkingMixIn`` in
    https://docs.python.org/3/library/socketserver.html.
    """
    if not flask.has_request_context():
        return None
    environ = flask.request.environ
    if not (environ.get("wsgi.multiprocess") and "werkzeug.socket" in environ):
        return None
    source = environ["wsgi.input"]
    # A chunked body has its own reader around the connection's.
    source = getattr(source, "_rfile", source)
    return source if isinstance(source, io.BufferedReader) else None


def _ending_request(app: flask.Flask) -> RequestScope | None:
    """The request that was torn down, while its app context is torn down.

    A teardown function of the app context may commit a transaction, and a hook of that
    commit may enqueue: see https://github.com/pallets-eco/flask-sqlalchemy/issues/1271.
    """
    if current_app() is not app:
        return None
    scope: RequestScope | None = vars(_app_context()).get(_TORN_DOWN)
    return scope


def note_use(app: flask.Flask, collector: CollectorLike) -> None:
    """Note that the current app context is about to use its thread's *collector*."""
    if current_app() is app:
        context = vars(_app_context())
        if _USE not in context:
            context[_USE] = Use(collector)


def current_use() -> Use | None:
    """The use of the thread's collector by the app context that is ending."""
    use: Use | None = vars(_app_context()).get(_USE)
    return use


def forget_use() -> None:
    """Note that the use of the thread's collector has ended."""
    vars(_app_context()).pop(_USE, None)


@contextmanager
def borrowed_app_context(app: flask.Flask) -> Iterator[None]:
    """An app context for code whose events belong to the caller's unit of work."""
    with app.app_context() as context:
        vars(context)[_USE] = None
        yield


def unfinished() -> list[RequestScope]:
    """The requests of this app context that were never torn down."""
    found = vars(_app_context()).get(_UNFINISHED)
    if not found:
        return []
    enclosing = _enclosing()
    return [scope for scope in found if scope is not enclosing]


def note_finished(scope: RequestScope) -> None:
    """Note that the events of the request were published or discarded."""
    vars(_app_context()).get(_UNFINISHED, {}).pop(scope, None)


def _enclosing() -> RequestScope | None:
    """The request inside which the app context was pushed, if any."""
    if not flask.has_request_context():
        return None
    context = _request_context()
    if context is _app_context():
        return None
    scope: RequestScope | None = vars(context).get(_SCOPE)
    return scope


def _unfinished() -> dict[RequestScope, None]:
    found: dict[RequestScope, None] = vars(_app_context()).setdefault(_UNFINISHED, {})
    return found


def _note_fork() -> None:
    if not flask.has_request_context():
        return
    context = vars(_request_context())
    context[_INHERITED] = True
    if _SCOPE in context:
        context[_SCOPE].is_inherited = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
