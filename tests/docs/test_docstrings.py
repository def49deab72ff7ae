"""The examples in docstrings, which the reference shows."""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any

from flask import Flask

import flask_eventcollector
from flask_eventcollector import EventCollector
from flask_eventcollector.testing import CapturedEventsMixin
from tests.docs.reader import Example, find_one, runs
from tests.helpers import Shop, open_shop

APPS, BLOCK, COLLECTOR, SETTINGS, TEST = (
    find_one(page=f"flask_eventcollector/{page}", heading=heading)
    for page, heading in (
        ("extension.py", "EventCollector"),
        ("collecting/blocks.py", "AutoPublishingEventCollector"),
        ("collecting/collector.py", "CollectorLike"),
        ("config/keys.py", "Settings"),
        ("testing/mixin.py", "CapturedEventsMixin"),
    )
)


def run(example: Example, **names: Any) -> dict[str, Any]:
    known = {
        name: getattr(flask_eventcollector, name)
        for name in flask_eventcollector.__all__
    }
    names = {"__name__": "example", "Flask": Flask, **known, **names}
    exec(example.code, names)
    return names


@runs(APPS)
def test_one_object_serves_any_number_of_apps() -> None:
    names = run(APPS)

    for app in (names["create_app"](), names["create_app"]()):
        with app.app_context():
            assert names["events"].stats().enqueued == 0


@runs(BLOCK)
def test_a_block_publishes() -> None:
    with open_shop() as shop, shop.app_context():
        run(BLOCK, events=shop.events)["restock"]()

        assert shop.sent("stock.counted") == [{"sku": "A1"}]


@runs(COLLECTOR)
def test_a_function_works_with_each_collector() -> None:
    with open_shop() as shop, shop.app_context():
        run(COLLECTOR, events=shop.events)
        shop.events.publish()

        assert shop.sent("orders.created") == [{"id": 8}, {"id": 7}]


@runs(SETTINGS)
def test_settings_are_a_dict(tmp_path: Path) -> None:
    app = Flask("shop", instance_path=str(tmp_path))

    run(SETTINGS, app=app)

    EventCollector(app)
    assert app.config["EVENTCOLLECTOR_BACKLOG"] == "spool"


@runs(TEST)
def test_the_mixin_captures() -> None:
    def create_app(config: dict[str, Any]) -> Flask:
        shop = Shop()
        shop.config.update(config)

        @shop.post("/orders")
        def place() -> str:
            shop.enqueue(1, queue="orders.created")
            return "placed"

        return shop

    names = run(
        TEST,
        create_app=create_app,
        CapturedEventsMixin=CapturedEventsMixin,
        unittest=unittest,
    )
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(names["OrderTest"])
    result = unittest.TestResult()
    suite.run(result)

    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
