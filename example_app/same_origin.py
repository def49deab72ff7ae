"""Protects the shop's forms against cross-site requests."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, abort, request


def init_app(app: Flask) -> None:
    """Reject forms from other sites."""
    app.before_request(refuse_other_sites)


def refuse_other_sites() -> None:
    """Answer 403 if a browser submits a form from another site's page."""
    if request.method not in ("GET", "HEAD", "OPTIONS") and not _is_our_own():
        abort(403, "This form was submitted from another site.")


def _is_our_own() -> bool:
    # Browsers send Sec-Fetch-Site; older ones send Origin. Scripts send neither, but
    # they carry no visitor's cookies and need no protection.
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host
