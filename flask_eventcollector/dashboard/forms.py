"""Protects the forms against requests that other sites make a browser send."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from flask import Response, abort, current_app, g, request
from itsdangerous import BadData, URLSafeTimedSerializer

from .access import Viewer

#: Binds a token to one browser.
COOKIE = "eventcollector_dashboard"
#: The field of a form with its token, which is valid for so many seconds.
FIELD, VALID_FOR = "token", 12 * 3600
_SALT = "flask-eventcollector.dashboard"
_NEW = "_eventcollector_dashboard_cookie"

_FOREIGN = "This form was not sent from this dashboard's own page."
_STALE = "This form is too old, or not from this browser. Reload the page it was on."


def tokens_for(viewer: Viewer) -> dict[str, str]:
    """The fields of each form that is shown to *viewer*.

    One is for Flask-WTF's ``CSRFProtect``, if the app protects all its forms with it.
    """
    app, tokens = current_app, {FIELD: token_for(viewer)}
    make_token = app.jinja_env.globals.get("csrf_token")
    if "csrf" in app.extensions and callable(make_token):
        tokens[app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token")] = make_token()
    return tokens


def token_for(viewer: Viewer) -> str:
    """The token for a form that is shown to *viewer*."""
    found = _nonce()
    if not found:
        found = secrets.token_urlsafe(24)
        setattr(g, _NEW, found)
    return str(_serializer().dumps([found, viewer.name]))


def check(viewer: Viewer) -> None:
    """Check that the current request is a form of ours, shown to *viewer*.

    :raises werkzeug.exceptions.Forbidden: it is not.
    """
    if not _is_from_here():
        abort(403, _FOREIGN)
    try:
        signed = _serializer().loads(request.form.get(FIELD, ""), max_age=VALID_FOR)
    except BadData:
        signed = None
    if not _nonce() or signed != [_nonce(), viewer.name]:
        abort(403, _STALE)


def set_cookie(response: Response, path: str) -> None:
    """Give the browser what its tokens belong to, if it is new."""
    if new := g.get(_NEW):
        response.set_cookie(
            COOKIE,
            new,
            path=path,
            secure=request.is_secure,
            httponly=True,
            samesite="Strict",
        )


def _is_from_here() -> bool:
    """Whether the browser says that the form was on a page of the same origin.

    Each one sends at least one of the two headers with a form.
    """
    site, origin = (request.headers.get(n) for n in ("Sec-Fetch-Site", "Origin"))
    if site is None and origin is None:
        return False
    return site in (None, "same-origin") and (
        origin is None or _host_of(origin) == request.host
    )


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _nonce() -> str:
    return str(g.get(_NEW) or request.cookies.get(COOKIE, ""))


def _serializer() -> URLSafeTimedSerializer:
    old = current_app.config.get("SECRET_KEY_FALLBACKS") or []
    keys = [*reversed(old), current_app.secret_key]
    return URLSafeTimedSerializer(keys, salt=_SALT)
