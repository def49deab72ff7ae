"""Who may see the dashboard."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, abort, redirect
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import TestResponse

from flask_eventcollector import ConfigurationError, EventCollector
from flask_eventcollector.dashboard import Viewer
from tests.helpers import Shop, open_shop

from .support import SAME_ORIGIN, Desk, open_desk

PAGES = ["", "live", "events", "event?id=1"]


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


# At registration.


def test_it_is_not_registered_without_authorize() -> None:
    with open_shop() as shop, pytest.raises(ConfigurationError) as raised:
        shop.register_blueprint(shop.events.dashboard())
    assert "needs authorize=" in str(raised.value)
    assert "flask run --debug" in str(raised.value)


def test_actions_are_not_allowed_without_a_key(shop: Shop) -> None:
    made = shop.events.dashboard(authorize=lambda: True, allow_actions=True)
    with pytest.raises(ConfigurationError, match="SECRET_KEY"):
        shop.register_blueprint(made)


def test_an_app_without_event_collector_is_refused() -> None:
    app, events = Flask("other"), EventCollector()
    with pytest.raises(ConfigurationError, match="init_app"):
        app.register_blueprint(events.dashboard(authorize=lambda: True))


def test_it_is_where_the_app_wants_it(shop: Shop) -> None:
    made = shop.events.dashboard(authorize=lambda: True)
    shop.register_blueprint(made, url_prefix="/admin/events", name="board")
    page = shop.test_client().get("/admin/events/")
    assert page.status_code == 200
    assert 'href="/admin/events/assets/dashboard.css"' in page.text
    style = shop.test_client().get("/admin/events/assets/dashboard.css")
    assert style.mimetype == "text/css"
    style.close()


# What authorize() says.


def closed(desk: Desk) -> bool:
    """Whether no page is shown; all must agree."""
    codes = {desk.get(page).status_code for page in PAGES}
    if codes == {403}:
        codes.add(desk.post(token="").status_code)
    assert codes in ({403}, {200, 404}), codes
    return codes == {403}


class Anonymous:
    """A user object, which is true as all objects are."""


def fails() -> bool:
    raise LookupError("no session")


def aborts() -> bool:
    abort(403)


def test_a_viewer_whose_name_is_no_text_is_not_admitted() -> None:
    number: Any = 7
    with open_desk({"authorize": lambda: Viewer(number)}) as desk:
        assert closed(desk)
    with pytest.raises(TypeError, match=r"str\(user\.id\), not int"):
        Viewer(number)


@pytest.mark.parametrize(
    ("answer", "is_closed"),
    [
        (False, True),
        (None, True),
        ("", True),
        (Anonymous(), True),
        (1, True),
        (True, False),
        ("ann", False),
        ("read-only", False),
        (Viewer(), False),
        (Viewer("ann", read_only=True), False),
    ],
    ids=[
        "false",
        "none",
        "empty",
        "object",
        "number",
        "true",
        "name",
        "read-only",
        "viewer",
        "read-only-viewer",
    ],
)
def test_authorize_decides(answer: Any, is_closed: bool) -> None:
    with open_desk({"authorize": lambda: answer}) as desk:
        assert closed(desk) is is_closed


@pytest.mark.parametrize("authorize", [fails, aborts], ids=["fails", "aborts"])
def test_whatever_authorize_raises_closes_it(authorize: Any) -> None:
    with open_desk({"authorize": authorize}) as desk:
        assert closed(desk)


def test_the_log_says_why_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    with open_desk({"authorize": Anonymous}) as desk:
        assert closed(desk)
    record = caplog.records[0]
    assert record.getMessage() == "Dashboard closed: authorize() failed"
    assert record.levelno == logging.ERROR
    assert "must return a Viewer" in str(record.exc_info and record.exc_info[1])


def test_a_response_is_sent_instead() -> None:
    with open_desk({"authorize": lambda: redirect("/login")}) as desk:
        for page in PAGES:
            response = desk.get(page)
            assert (response.status_code, response.location) == (302, "/login")
            assert response.headers["Cache-Control"] == "no-store"
        assert "dead" not in response.text


def test_authorize_may_abort_with_a_response() -> None:
    def authorize() -> bool:
        abort(401)

    with open_desk({"authorize": authorize}) as desk:
        assert desk.get().status_code == 401


def test_authorize_may_be_async() -> None:
    pytest.importorskip("asgiref")

    async def authorize() -> str:
        return "ann"

    with open_desk({"authorize": authorize}) as desk:
        assert "Seen by ann" in desk.shown()


# Without authorize(): in debug mode, from the same machine.


@pytest.fixture
def debug(shop: Shop) -> Shop:
    shop.debug = True
    shop.register_blueprint(shop.events.dashboard())
    return shop


def ask(
    app: Flask, address: str | None, host: str = "localhost:5000", **headers: str
) -> TestResponse:
    environ = {"REMOTE_ADDR": address, "HTTP_HOST": host, **headers}
    return app.test_client().get("/eventcollector/", environ_overrides=environ)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"]
)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:5000", "[::1]:5000"])
def test_it_is_shown_on_the_same_machine(debug: Shop, address: str, host: str) -> None:
    assert ask(debug, address, host).status_code == 200


@pytest.mark.parametrize(
    ("address", "host", "headers"),
    [
        ("192.0.2.7", "localhost", {}),
        ("::ffff:192.0.2.7", "localhost", {}),
        ("2001:db8::1", "localhost", {}),
        ("", "localhost", {}),
        (None, "localhost", {}),
        ("unix:", "localhost", {}),
        ("192.0.2.7", "localhost", {"HTTP_X_FORWARDED_FOR": "127.0.0.1"}),
        ("127.0.0.1", "localhost", {"HTTP_X_FORWARDED_FOR": "127.0.0.1"}),
        ("127.0.0.1", "localhost", {"HTTP_FORWARDED": "for=127.0.0.1"}),
        ("127.0.0.1", "localhost", {"HTTP_VIA": "1.1 proxy"}),
        ("127.0.0.1", "localhost", {"HTTP_X_FORWARDED_PROTO": "https"}),
        ("127.0.0.1", "localhost", {"HTTP_CF_CONNECTING_IP": "192.0.2.7"}),
        ("127.0.0.1", "localhost", {"HTTP_X_REAL_IP": "127.0.0.1"}),
        ("127.0.0.1", "rebound.example", {}),
        ("127.0.0.1", "localhost.rebound.example", {}),
    ],
)
def test_it_is_not_shown_elsewhere(
    debug: Shop, address: str | None, host: str, headers: dict[str, str]
) -> None:
    response = ask(debug, address, host, **headers)
    assert response.status_code == 403
    assert "only to a browser on the same machine" in response.text


def test_a_proxy_that_is_believed_changes_nothing(debug: Shop) -> None:
    debug.wsgi_app = ProxyFix(debug.wsgi_app)  # type: ignore[method-assign]
    forged = {"HTTP_X_FORWARDED_FOR": "127.0.0.1"}
    assert ask(debug, "192.0.2.7", **forged).status_code == 403
    assert ask(debug, "127.0.0.1").status_code == 200


def test_it_is_not_shown_when_debug_mode_is_off_by_then(debug: Shop) -> None:
    debug.debug = False
    assert ask(debug, "127.0.0.1").status_code == 403


# Read-only.


READ_ONLY: list[Any] = [
    {"allow_actions": False},
    {"authorize": lambda: "read-only"},
    {"authorize": lambda: Viewer("ann", read_only=True)},
]


@pytest.mark.parametrize("options", READ_ONLY, ids=["default", "word", "viewer"])
def test_who_may_only_look_changes_nothing(options: dict[str, Any]) -> None:
    with open_desk(options) as desk:
        event = desk.die()
        assert "Read-only" in desk.shown()
        for page in (desk.page("events"), desk.page("event", id=event.id)):
            assert 'method="post"' not in page
            assert "token" not in page
        assert "Set-Cookie" not in desk.get().headers
        response = desk.post(token="", action="purge", id=event.id, agreed="1")
        assert response.status_code == 403
        assert desk.shop.books() == {"dead": 1}


def test_who_may_no_longer_act_changes_nothing() -> None:
    viewer = Viewer("ann")
    with open_desk({"authorize": lambda: viewer}) as desk:
        event, token = desk.die(), desk.token()
        viewer = Viewer("ann", read_only=True)
        response = desk.post(token=token, action="purge", id=event.id, agreed="1")
        assert response.status_code == 403
        assert "This dashboard is read-only for you." in response.text
        assert desk.shop.books() == {"dead": 1}


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
def test_another_method_changes_nothing(desk: Desk, method: str) -> None:
    event = desk.die()
    data = {"token": desk.token(), "action": "purge", "id": event.id, "agreed": "1"}
    response = getattr(desk.browser, method)(
        "/eventcollector/change", data=data, headers=SAME_ORIGIN
    )
    assert response.status_code == 405
    assert desk.shop.books() == {"dead": 1}
