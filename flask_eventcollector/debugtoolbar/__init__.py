"""A panel for Flask-DebugToolbar, which shows what becomes of a request's events.

Needs the extra ``debugtoolbar``.
"""

from .panel import EventsPanel

__all__ = ["EventsPanel"]
