"""A shop whose events are captured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flask_eventcollector.testing import Captured
from tests.helpers import Shop

from .shop_app import OpenShop, make_shop


@pytest.fixture
def open_shop() -> Iterator[OpenShop]:
    """Open shops with individual settings."""
    shops: list[Shop] = []

    def opened(**settings: Any) -> Shop:
        shops.append(make_shop(**settings))
        return shops[-1]

    yield opened
    for shop in shops:
        shop.events.close(1)


@pytest.fixture
def shop(open_shop: OpenShop) -> Shop:
    """A shop on the memory broker."""
    return open_shop()


@pytest.fixture
def captured(shop: Shop) -> Iterator[Captured]:
    """The capture of the shop's events."""
    with shop.events.capture() as captured:
        yield captured
