"""A table of all settings, from the one place that defines them."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from flask_eventcollector.config.settings import PREFIX, Config

MODULE = "flask_eventcollector.config.settings"


def default_of(field: Field[Any]) -> str:
    """The default as one would write it in a configuration."""
    default = field.default
    if default is MISSING:
        return "{}"
    if callable(default):
        return repr(default.__name__.removeprefix("publish_on_"))
    return repr(getattr(default, "value", default))


def rows() -> list[tuple[str, str, str]]:
    """Each setting's key, default and meaning.

    :raises KeyError: a setting has no comment.
    """
    documented = ModuleAnalyzer.for_module(MODULE).find_attr_docs()
    found = []
    for field in fields(Config):
        meaning = " ".join(documented["Config", field.name]).strip()
        key = PREFIX + field.name.upper().replace("BROKER_URLS", "BROKER_URL")
        found.append((key, default_of(field), meaning))
    return found


class SettingsTable(SphinxDirective):
    """``.. settings-table::``"""

    def run(self) -> list[nodes.Node]:
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 30 15 55", ""]
        for cells in (("key", "default", "meaning"), *rows()):
            key, default, meaning = cells
            marked = "" if key == "key" else "``"
            lines += [
                f"   * - {marked}{key}{marked}",
                f"     - {marked}{default}{marked}",
                f"     - {meaning}",
            ]
        container = nodes.container()
        self.state.nested_parse(StringList(lines, MODULE), 0, container)
        return list(container.children)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("settings-table", SettingsTable)
    return {"parallel_read_safe": True}
