"""The panel itself."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from flask import Flask, current_app
from flask_debugtoolbar.panels import DebugPanel

from ..app_state import state_of
from ..backlog.wording import visible
from ..messages.wording import counted
from .recorder import Recorder, Shown

_KEY = "eventcollector_debugtoolbar"
_TEMPLATE = Path(__file__).with_name("panel.html")


class EventsPanel(DebugPanel):
    """Shows the events of this request, and what became of those of the last ones.

    List it in ``DEBUG_TB_PANELS``. It shows payloads, so it is empty unless the app was
    in debug mode when the toolbar was initialised.

    https://flask-debugtoolbar.readthedocs.io/en/latest/panels.html
    """

    name = "Events"
    has_content = True

    @classmethod
    def init_app(cls, app: Flask) -> None:
        """Record the app's events from now on, in debug mode only."""
        if app.debug:
            recorder = app.extensions[_KEY] = Recorder()
            recorder.connect(app)

    def nav_title(self) -> str:
        """Its name in the toolbar."""
        return "Events"

    def nav_subtitle(self) -> str:
        """How many events there are, in this request and others."""
        if self._shown is None:
            return "not in debug mode"
        here = self._shown.current.request.count
        others = sum(other.request.count for other in self._shown.others)
        return f"{counted(here, 'event')}, {others} earlier"

    def title(self) -> str:
        """Its heading, which the toolbar does not escape."""
        return "Events"

    def url(self) -> str:
        """Nothing: its content is part of the page."""
        return ""

    def content(self) -> str:
        """Its HTML, in which the toolbar's environment escapes all values.

        What would be invisible is shown as on the dashboard.
        """
        environment = self.jinja_env.overlay(finalize=visible)
        template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
        return str(template.render(shown=self._shown))

    @cached_property
    def _shown(self) -> Shown | None:
        """What it shows; ``None``: nothing is recorded."""
        recorder: Recorder | None = current_app.extensions.get(_KEY)
        state = state_of(current_app)
        return None if recorder is None or state is None else recorder.shown(state)
