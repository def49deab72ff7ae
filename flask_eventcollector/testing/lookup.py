"""The way from an app to its events."""

from __future__ import annotations

from flask import Flask

from ..app_state import state_of
from ..messages.wording import type_name
from .capture import Captured


def has_collector(app: object) -> bool:
    """Whether *app* is a Flask app with an event collector."""
    return isinstance(app, Flask) and state_of(app) is not None


def capture_app(app: object) -> Captured:
    """A capture of *app*'s events, to be used in a ``with`` block.

    :raises TypeError: it is no Flask app.
    :raises RuntimeError: it has no event collector.
    """
    if not isinstance(app, Flask):
        raise TypeError(f"the app must be a Flask app, not of type {type_name(app)}")
    state = state_of(app)
    if state is None:
        raise RuntimeError(
            f"the app {app.name!r} has no EventCollector: call events.init_app(app)"
            " when you create it"
        )
    return Captured(app, state)
