"""The app whose events the tests capture."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pytest
from flask import abort, request
from flask.typing import ResponseReturnValue

from flask_eventcollector import EventCollector
from tests.helpers import Shop


class OpenShop(Protocol):
    """Opens a shop, and closes it at the end of the test."""

    def __call__(self, **settings: Any) -> Shop: ...


def make_shop(events: EventCollector | None = None, **settings: Any) -> Shop:
    """A shop with a few ways to place an order."""
    shop = Shop(events, **settings)

    @shop.post("/orders")
    def place_order() -> ResponseReturnValue:
        order = request.get_json()
        shop.events.enqueue_event({"id": 7, **order}, "orders.created")
        shop.events.enqueue_event({"to": "ann@example.org"}, "mail.send")
        return "placed", 201

    @shop.post("/orders/refused")
    def refuse_order() -> ResponseReturnValue:
        shop.events.enqueue_event({"id": 8, **request.get_json()}, "orders.created")
        abort(409)

    @shop.post("/orders/crash")
    def crash() -> ResponseReturnValue:
        shop.events.enqueue_event({"id": 9, **request.get_json()}, "orders.created")
        raise ValueError("the payment failed")

    return shop


def place(shop: Shop, sku: str = "A1", path: str = "") -> None:
    """Place an order by a request: two events."""
    shop.test_client().post(f"/orders{path}", json={"sku": sku})


def publish(shop: Shop, payload: Any, queue: str = "q", **options: Any) -> None:
    """Publish one event in a block."""
    with shop.app_context(), shop.events.auto_publish():
        shop.events.enqueue_event(payload, queue, **options)


def failure(assertion: Callable[..., object], *args: Any, **options: Any) -> str:
    """The message of the failing *assertion*, without line numbers."""
    with pytest.raises(AssertionError) as caught:
        assertion(*args, **options)
    return re.sub(r"\(\S*shop_app\.py:\d+ in", "(shop_app.py in", str(caught.value))


def opened(shop: Shop) -> AbstractContextManager[object]:
    """An app context of *shop*."""
    return shop.app_context()
