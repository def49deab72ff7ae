"""Renders the dashboard's pages."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from flask import Response, url_for
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from werkzeug.datastructures import Headers

from ..backlog import wording

#: The parts of the first page that are replaced while it is shown, in its order.
PARTS = ("health", "books", "charts", "targets", "processes", "places")

#: No style and no script in a page, nothing from elsewhere, and no page around it.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)

#: The headers of each response. A form's request has an Origin only if its page lets
#: its own origin know where requests come from.
PROTECTION = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Protected(Response):
    """A page with its :data:`PROTECTION`, whatever the app gives each response."""

    def get_wsgi_headers(self, environ: dict[str, Any]) -> Headers:
        """The headers that are sent."""
        headers = super().get_wsgi_headers(environ)
        headers.update({**PROTECTION, "Cache-Control": "no-store"})
        return headers


def _lines(text: str) -> Markup:
    """*text* with its line breaks, and otherwise as :func:`.visible` has it."""
    return Markup("\n").join(map(wording.printable, text.split("\n")))


def _since(microseconds: int | None) -> str:
    """How long ago that was."""
    if microseconds is None:
        return "-"
    return wording.age(max(0.0, time.time() - microseconds / 1e6))


def _since_time(moment: datetime | None) -> str:
    return wording.age(None if moment is None else wording.age_of(moment))


def _number(value: int) -> Markup:
    """A number that no line break divides."""
    return Markup("&nbsp;").join(wording.number(value).split(" "))


def _figure(value: float) -> str:
    """A number with few digits."""
    return f"{value:.1f}" if value < 10 and value % 1 else _number(round(value))


#: Not the app's: its filters, globals and escaping are no concern of these pages.
_environment = Environment(
    loader=PackageLoader(__package__, "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=wording.visible,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "age": wording.age,
    "count": wording.count,
    "figure": _figure,
    "lines": _lines,
    "moment": wording.moment_of,
    "number": _number,
    "since": _since,
    "since_time": _since_time,
    "size": wording.size,
    "wait": wording.wait,
}
_environment.globals["url_for"] = url_for
_environment.globals["parts"] = PARTS


def render(template: str, **values: Any) -> str:
    """The page, or part of it, that *template* makes of *values*."""
    return _environment.get_template(template).render(**values)
