"""The examples of docs/requests.md, and the page's statements about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from flask_eventcollector import EventCollector
from tests.docs.modules import imported
from tests.docs.reader import find_one, runs
from tests.helpers import books

PAGE = "docs/requests.md"
SHOP, LOGIN, RULE, EXPORT = (
    find_one(page=PAGE, file=name)
    for name in ("shop.py", "login.py", "settings.py", "export.py")
)


@pytest.fixture
def shop() -> Iterator[Any]:
    with imported(SHOP, LOGIN, EXPORT) as (shop, _, _):
        yield shop


@runs(SHOP)
@pytest.mark.parametrize(
    ("sku", "status", "fate"),
    [
        ("A1", 200, {"confirmed": 1}),
        ("unknown", 404, {"discarded": 1}),
        ("rare", 409, {"discarded": 1}),
    ],
)
def test_the_final_status_decides(
    shop: Any, sku: str, status: int, fate: dict[str, int]
) -> None:
    response = shop.app.test_client().post(f"/orders/{sku}")

    assert response.status_code == status
    assert books(shop.events) == fate


@runs(LOGIN)
def test_a_block_publishes_though_the_request_is_refused(shop: Any) -> None:
    assert shop.app.test_client().post("/login").status_code == 401

    [event] = shop.events.broker.events("logins.refused")
    assert event.payload == {"user": "ada"}


@runs(RULE)
def test_a_callable_decides_instead() -> None:
    with imported(RULE) as (settings,):
        app = Flask("shop")
        app.config.from_object(settings)
        app.config["TESTING"] = True
        events = EventCollector(app)

        @app.get("/<int:status>")
        def answer(status: int) -> tuple[str, int]:
            events.enqueue_event(status, "answers")
            return "", status

        for status in (200, 404, 503):
            app.test_client().get(f"/{status}")

        answers = [event.payload for event in events.broker.events("answers")]  # type: ignore[attr-defined]
        assert answers == [200, 404]
        events.close(0)


@runs(EXPORT)
def test_a_stream_publishes_when_its_body_ends(shop: Any) -> None:
    assert shop.app.test_client().get("/export").text == "0\n1\n2\n"

    rows = shop.events.broker.events("rows.exported")
    assert [event.payload["row"] for event in rows] == [0, 1, 2]
