"""The examples of the README below its quickstart."""

from __future__ import annotations

from typing import Any

import pytest

from flask_eventcollector import events_published, publish_failed
from tests.docs.reader import find, find_one, runs
from tests.docs.test_quickstart import APPS
from tests.helpers import Shop, open_shop

pytest_plugins = ["pytester"]

SCRIPT, BLOCKS = find(
    page="README.md", heading="Four ways to use it", language="python"
)
SIGNALS = find_one(page="README.md", heading="Know what happens", language="python")
TEST = find_one(page="README.md", heading="Test it in one line")


def run(code: str, shop: Shop) -> dict[str, Any]:
    names: dict[str, Any] = {"app": shop, "events": shop.events}
    exec(code, names)
    return names


@pytest.mark.parametrize(
    ("is_down", "books"), [(False, {"confirmed": 1}), (True, {"dropped": 1})]
)
@runs(SCRIPT)
def test_a_script_withdraws_what_was_not_confirmed(
    is_down: bool, books: dict[str, int]
) -> None:
    with open_shop() as shop, shop.app_context():
        if is_down:
            shop.faults.go_down()
        run(SCRIPT.code.replace("timeout=30", "timeout=0.1"), shop)

        assert shop.books() == books


@runs(BLOCKS)
def test_a_block_and_a_decorated_function_publish() -> None:
    with open_shop() as shop, shop.app_context():
        names = run(BLOCKS.code, shop)
        names["restock"]()

        assert shop.sent("stock.counted") == [{"sku": "A1"}] * 2


@runs(SIGNALS)
def test_receivers_are_called_with_what_they_take() -> None:
    with open_shop() as shop, shop.app_context():
        receivers = run(SIGNALS.code, shop)
        assert set(events_published.receivers_for(shop)) == {receivers["count"]}
        assert set(publish_failed.receivers_for(shop)) == {receivers["worry"]}
        shop.enqueue(1)
        shop.events.publish()


@runs(TEST)
def test_it_is_tested_in_one_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(app=APPS["README.md"].code, test_order=TEST.code)
    pytester.makeconftest("""
        import pytest
        from app import app as shop

        @pytest.fixture
        def app():
            shop.testing = True
            return shop

        @pytest.fixture
        def client(app):
            return app.test_client()
    """)

    result = pytester.runpytest_inprocess("-p", "no:flask", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=1)
