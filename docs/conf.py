"""How Sphinx builds the pages of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

from flask_eventcollector import __name__ as package

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Flask-EventCollector"
copyright = "Flask-EventCollector contributors"
assert package == "flask_eventcollector"  # noqa: S101 - the pages are generated from it

extensions = [
    "myst_parser",
    "pallets_sphinx_themes",
    "settings_table",
    "sphinx.ext.autodoc",
    "sphinx_click",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_*"]
nitpicky = True
# Documented elsewhere; a build needs no network.
nitpick_ignore_regex = [
    ("py:class", r"(collections\.abc|datetime|pathlib|re)\.\w+"),
    ("py:class", r"(flask\.app\.)?Flask|(flask\.)?Blueprint"),
    # Of the type checker alone.
    ("py:class", r"Unpack|Reason|Authorize"),
    ("py:(class|exc)", r"sqlalchemy\.[\w.]+|MetaData|Table"),
]

html_theme = "flask"
html_title = project
toc_object_entries_show_parents = "hide"
html_show_sourcelink = False
html_sidebars = {"**": ["searchbox.html", "localtoc.html", "pages.html"]}
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

myst_enable_extensions = ["colon_fence", "fieldlist"]
myst_heading_anchors = 3
