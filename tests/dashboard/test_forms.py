"""What a form must have, lest another site send it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask, Response, abort, request
from itsdangerous import URLSafeTimedSerializer
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from flask_eventcollector.dashboard import Viewer, forms

from .support import Desk, open_desk


def purge(desk: Desk, id: str, **more: Any) -> int:
    fields = {"action": "purge", "id": id, "agreed": "1"} | more
    code: int = desk.post(**fields).status_code
    return code


def test_a_form_of_the_page_is_accepted(desk: Desk) -> None:
    assert purge(desk, desk.die().id) == 200
    assert desk.shop.books() == {"dropped": 1}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://["},
        {"Origin": "http://localhost:8080"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
    ids=str,
)
def test_a_form_from_elsewhere_is_refused(desk: Desk, headers: dict[str, str]) -> None:
    assert purge(desk, desk.die().id, headers=headers) == 403
    assert desk.shop.books() == {"dead": 1}


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://localhost"}, {"Sec-Fetch-Site": "same-origin"}],
    ids=str,
)
def test_one_of_the_two_headers_is_enough(desk: Desk, headers: dict[str, str]) -> None:
    assert purge(desk, desk.die().id, headers=headers) == 200


@pytest.mark.parametrize("token", ["", "x", "WyJ4Il0.x.y"])
def test_a_form_without_its_token_is_refused(desk: Desk, token: str) -> None:
    event = desk.die()
    desk.page("events")
    assert purge(desk, event.id, token=token) == 403
    assert desk.shop.books() == {"dead": 1}


def test_the_token_of_another_browser_is_refused(desk: Desk) -> None:
    event = desk.die()
    theirs = Desk.token(desk)
    desk.browser = desk.shop.test_client()
    desk.page("events")
    assert purge(desk, event.id, token=theirs) == 403


def test_a_token_without_its_cookie_is_refused(desk: Desk) -> None:
    event, token = desk.die(), desk.token()
    desk.browser = desk.shop.test_client()
    assert purge(desk, event.id, token=token) == 403


def test_the_token_of_another_user_is_refused() -> None:
    user = Viewer("ann")
    with open_desk({"authorize": lambda: user}) as desk:
        event, token = desk.die(), desk.token()
        user = Viewer("bob")
        assert purge(desk, event.id, token=token) == 403


def test_a_token_with_another_key_is_refused(desk: Desk) -> None:
    event, token = desk.die(), desk.token()
    desk.shop.secret_key = "another key"
    assert purge(desk, event.id, token=token) == 403
    desk.shop.config["SECRET_KEY_FALLBACKS"] = ["key"]
    assert purge(desk, event.id, token=token) == 200


def test_an_old_token_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    event, token = desk.die(), desk.token()
    monkeypatch.setattr(forms, "VALID_FOR", -1)
    assert purge(desk, event.id, token=token) == 403


def test_the_cookie_is_for_these_pages_alone(desk: Desk) -> None:
    cookie = desk.get("events").headers["Set-Cookie"]
    assert cookie.startswith(f"{forms.COOKIE}=")
    for part in ("HttpOnly", "SameSite=Strict", "Path=/eventcollector/"):
        assert part in cookie
    assert "Secure" not in cookie
    assert "Set-Cookie" not in desk.get("events").headers


@pytest.mark.parametrize("settings", [{}, {"SERVER_NAME": "shop.example"}], ids=str)
def test_an_app_below_a_prefix_accepts_its_forms(
    desk: Desk, settings: dict[str, str]
) -> None:
    desk.shop.config.update(settings)
    event, browser = desk.die(), Client(_below(desk.shop, "/shop"))
    here = {"base_url": "https://shop.example"}
    page = browser.get("/shop/eventcollector/events", **here)
    assert "Path=/shop/eventcollector/" in page.headers["Set-Cookie"]
    (token,) = re.findall('name="token" value="([^"]+)"', page.text)
    (action,) = re.findall('method="post" action="([^"]+)"', page.text)
    data = {"token": token, "action": "purge", "id": event.id, "agreed": "1"}
    sent = browser.post(
        action, data=data, headers={"Origin": "https://shop.example"}, **here
    )
    assert sent.status_code == 200
    assert desk.shop.books() == {"dropped": 1}


def _below(app: Flask, prefix: str) -> DispatcherMiddleware:
    return DispatcherMiddleware(NotFound(), {prefix: app})


def test_over_https_the_cookie_is_secure(desk: Desk) -> None:
    response = desk.browser.get("/eventcollector/events", base_url="https://localhost")
    assert "Secure" in response.headers["Set-Cookie"]


def test_a_signature_of_the_app_for_another_purpose_is_refused(desk: Desk) -> None:
    event = desk.die()
    desk.page("events")
    cookie = desk.browser.get_cookie(forms.COOKIE, path="/eventcollector/")
    assert cookie is not None
    token = URLSafeTimedSerializer("key").dumps([cookie.value, "ann"])
    assert purge(desk, event.id, token=token) == 403


# What each page sends along.


@pytest.mark.parametrize("page", ["", "events", "live", "event?id=none"])
def test_each_page_is_protected(desk: Desk, page: str) -> None:
    headers = desk.get(page).headers
    policy = headers["Content-Security-Policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert {"frame-ancestors 'none'", "form-action 'self'"} <= {*policy}
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    # Without it, a form's Origin would be "null".
    assert headers["Referrer-Policy"] == "same-origin"


def test_the_page_that_says_no_is_protected() -> None:
    with open_desk({"authorize": lambda: False}) as desk:
        headers = desk.get().headers
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store"


def test_no_page_has_a_script_or_a_style_of_its_own(desk: Desk) -> None:
    event = desk.die()
    for page in ("", "events", f"event?id={event.id}"):
        text = desk.page(page)
        assert "style=" not in text
        assert "<style" not in text
        assert " on" not in text.split("<body>")[0]
        assert text.count("<script") == text.count("<script src=") == 1
        assert "http://" not in text
        assert "https://" not in text


def test_no_other_extension_writes_into_a_page(desk: Desk) -> None:
    @desk.shop.after_request
    def write(response: Response) -> Response:
        """Write into it as Flask-DebugToolbar does."""
        if response.is_sequence and response.mimetype == "text/html":
            response.data = response.data.replace(b"</body>", b"<style></style></body>")
        return response

    page = desk.page("events")
    assert "</body>" in page
    assert "<style>" not in page


@pytest.mark.parametrize("page", ["", "events", "live", "event?id=none"])
def test_what_the_app_gives_each_response_takes_no_protection_off(
    desk: Desk, page: str
) -> None:
    @desk.shop.after_request
    def harden(response: Response) -> Response:
        """Do what Flask-Talisman does by default, and cache."""
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        response.headers["X-Frame-Options"] = "SAMEORIGIN"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "public, max-age=60"
        response.headers["X-Of-The-App"] = "kept"
        return response

    headers = desk.get(page).headers
    (policy,) = headers.getlist("Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert headers.getlist("X-Frame-Options") == ["DENY"]
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers.getlist("Cache-Control") == ["no-store"]
    assert headers["X-Of-The-App"] == "kept"


def test_its_forms_have_the_token_of_an_app_that_protects_all_forms(
    desk: Desk,
) -> None:
    """As Flask-WTF's CSRFProtect does."""
    desk.shop.extensions["csrf"] = object()
    desk.shop.jinja_env.globals["csrf_token"] = lambda: "of the app"

    @desk.shop.before_request
    def protect() -> None:
        if request.method == "POST" and request.form.get("csrf_token") != "of the app":
            abort(400, "The CSRF token is missing.")

    event = desk.die()
    refused = desk.post(action="purge", id=event.id, agreed="1")
    assert refused.status_code == 400
    assert refused.headers["X-Frame-Options"] == "DENY"
    field = 'name="csrf_token" value="of the app"'
    assert field in desk.page("events")
    assert field in desk.page("event", id=event.id)
    asked = desk.post(action="purge", id=event.id, csrf_token="of the app")
    assert field in asked.text
    assert purge(desk, event.id, csrf_token="of the app") == 200


def test_the_files_are_protected(desk: Desk) -> None:
    for name in ("dashboard.css", "dashboard.js", "icon.svg"):
        response = desk.get(f"assets/{name}")
        assert response.status_code == 200
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        response.close()
