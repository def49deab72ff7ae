"""Only the shop's own pages may press its buttons."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, abort, request


def init_app(app: Flask) -> None:
    """Refuse forms that come from another site."""
    app.before_request(refuse_other_sites)


def refuse_other_sites() -> None:
    """Answer 403 to a form that a browser sends from another site's page."""
    if request.method not in ("GET", "HEAD", "OPTIONS") and not _is_our_own():
        abort(403, "This form came from another site.")


def _is_our_own() -> bool:
    # Browsers send Sec-Fetch-Site, older ones Origin; neither comes from a script,
    # which carries nobody's cookies and needs no protection.
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host
