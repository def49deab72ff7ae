"""Finds the scope of a request on Flask's context objects.

The scope is stored on the context *object*, not on ``g``: in Flask 3.1, requests that
are nested or run inside an outer app context share one ``g``.
"""

from __future__ import annotations

from typing import Any

import flask
import flask.globals

from .collecting.requests import RequestScope
from .collecting.scopes import Scopes

#: Flask 3.2 merges both kinds of contexts and deprecates ``request_ctx``.
_request_ctx = vars(flask.globals).get("request_ctx", flask.globals.app_ctx)

_SCOPE = "_eventcollector_scope"
_UNFINISHED = "_eventcollector_unfinished"


def current_request(app: flask.Flask, scopes: Scopes) -> RequestScope | None:
    """The scope of *app*'s current request; ``None``: there is no request."""
    if not flask.has_request_context():
        return None
    context = _request_ctx._get_current_object()
    if context.app is not app:
        return None
    scope: RequestScope | None = vars(context).get(_SCOPE)
    if scope is None:
        scope = vars(context)[_SCOPE] = RequestScope(scopes)
    # Another extension's teardown may raise, so that ours never runs. Then the app
    # context's teardown publishes or discards, so it must know its requests.
    _unfinished().setdefault(scope)
    return scope


def note_finished(scope: RequestScope) -> None:
    """Note that the request's own teardown has run."""
    if flask.has_app_context():
        _unfinished().pop(scope, None)


def take_unfinished() -> list[RequestScope]:
    """Take the requests of this app context that were never torn down."""
    unfinished = [scope for scope in _unfinished() if scope is not _enclosing()]
    _unfinished().clear()
    return unfinished


def _enclosing() -> RequestScope | None:
    """The request inside which the app context was pushed, if any."""
    if not flask.has_request_context():
        return None
    context = _request_ctx._get_current_object()
    if context is flask.globals.app_ctx._get_current_object():  # type: ignore[attr-defined]
        return None
    scope: RequestScope | None = vars(context).get(_SCOPE)
    return scope


def _unfinished() -> dict[RequestScope, None]:
    context: Any = flask.globals.app_ctx._get_current_object()  # type: ignore[attr-defined]
    found: dict[RequestScope, None] = vars(context).setdefault(_UNFINISHED, {})
    return found
