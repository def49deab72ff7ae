"""Finds the event collector of an app."""

from __future__ import annotations

from flask import Flask

from ..app_state import state_of
from ..messages.wording import type_name
from .capture import Captured


def has_collector(app: object) -> bool:
    """Whether *app* is a Flask app with an event collector."""
    return isinstance(app, Flask) and state_of(app) is not None


def capture_app(app: object, name: str = "captured") -> Captured:
    """Capture the events of *app*, in a ``with`` block.

    :param app: a Flask app with an event collector.
    :param name: the variable in which the test has it, for the hints of assertions that
        fail.
    :returns: a :class:`Captured`.
    :raises TypeError: *app* is not a Flask app.
    :raises RuntimeError: *app* has no event collector.
    """
    if not isinstance(app, Flask):
        raise TypeError(f"the app must be a Flask app, not of type {type_name(app)}")
    state = state_of(app)
    if state is None:
        raise RuntimeError(
            f"the app {app.name!r} has no EventCollector: call events.init_app(app)"
            " when you create it"
        )
    return Captured(app, state, name)
