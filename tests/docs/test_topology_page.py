"""The examples of docs/topology.md: from an empty broker, by settings alone."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector import EventCollector
from tests.docs.modules import imported, write
from tests.docs.reader import ROOT, find, find_one, runs
from tests.helpers import DEADLINE, Shop
from tests.rabbitmq import RabbitMQNode

PAGE = "docs/topology.md"
OF_OTHERS = find_one(page=PAGE, file="settings.py")
SHOP, TESTS = (find_one(page=PAGE, file=name) for name in ("shop.py", "test_shop.py"))
TRANSCRIPT = find_one(page=PAGE, language="console")
NO_ROUTE, DIFFERENT = find(page=PAGE, language="text")

pytest_plugins = ["pytester"]


@contextmanager
def shop_at(node: RabbitMQNode, **settings: Any) -> Iterator[Any]:
    """The page's app, connected to *node*."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASK_EVENTCOLLECTOR_BROKER_URL", node.url)
        for key, value in settings.items():
            patch.setenv(f"FLASK_EVENTCOLLECTOR_{key}", json.dumps(value))
        with imported(SHOP) as (shop,):
            yield shop


@pytest.mark.rabbitmq
@runs(SHOP, NO_ROUTE)
def test_two_queues_get_an_order_and_nobody_gets_a_user(
    private_rabbitmq: RabbitMQNode, caplog: pytest.LogCaptureFixture
) -> None:
    with shop_at(private_rabbitmq, CONFIRM_TIMEOUT=DEADLINE) as shop:
        client = shop.app.test_client()
        assert client.post("/orders/7").status_code == 201
        assert client.post("/users/7").status_code == 201
        with shop.app.app_context():
            stats = shop.events.stats()

    assert (stats.confirmed, stats.retained, stats.broker_error) == (1, 1, "")
    assert [f"{p.reason}\n" for p in stats.problems] == [NO_ROUTE.code]
    assert NO_ROUTE.code.strip() in caplog.text
    for queue in ("billing", "audit"):
        (message,) = private_rabbitmq.get_all(queue)
        assert message.json() == {"order_id": 7}


@pytest.mark.rabbitmq
@runs(TRANSCRIPT)
def test_the_commands_set_it_up_and_show_it(
    private_rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    write(tmp_path, SHOP)
    environment = os.environ | {
        "FLASK_APP": "shop",
        "FLASK_EVENTCOLLECTOR_BROKER_URL": private_rabbitmq.url,
        "PYTHONPATH": str(ROOT),
        "PYTHONUTF8": "1",
    }
    shown = ""
    for line in TRANSCRIPT.code.splitlines():
        if line.startswith("$ flask "):
            command = [sys.executable, "-m", *shlex.split(line[2:])]
            result = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert result.returncode == 0, result.stderr
            shown += f"{line}\n{result.stdout}"

    assert shown == TRANSCRIPT.code


@pytest.mark.rabbitmq
@runs(DIFFERENT)
def test_what_differs_is_told_as_on_the_page(private_rabbitmq: RabbitMQNode) -> None:
    private_rabbitmq.declare("orders", x_max_length=6)
    queues = {"orders": {"x-max-length": 5}, "billing": {"bind": ["shop:orders.#"]}}
    with shop_at(private_rabbitmq, CONFIRM_TIMEOUT=DEADLINE) as shop:
        shop.app.config["EVENTCOLLECTOR_QUEUES"] = queues
        app = type(shop.app)("other")
        app.config.update(shop.app.config)
        events = EventCollector(app)
        with app.app_context():
            events.enqueue_event(1, "orders.created")
            assert events.publish(timeout=DEADLINE).complete
            assert f"{events.stats().broker_error}\n" == DIFFERENT.code
            events.close(0)


@runs(OF_OTHERS)
def test_tests_see_a_queue_of_others() -> None:
    settings: dict[str, Any] = {}
    exec(OF_OTHERS.code, {}, settings)
    shop = Shop(**{k.removeprefix("EVENTCOLLECTOR_"): v for k, v in settings.items()})
    with shop.app_context(), shop.events.capture() as captured:
        shop.events.enqueue_event({"name": "Zoë"}, "contacts.created")
        shop.events.publish()
        event = captured.assert_published("contacts.created", exchange="crm")
    assert event.routed_to == ("crm.contacts",)


@runs(TESTS)
def test_tests_see_the_queues(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write(pytester.path, SHOP, TESTS)
    pytester.makeconftest(
        """
        import pytest
        import shop

        @pytest.fixture
        def app():
            shop.app.testing = True
            return shop.app

        @pytest.fixture
        def client(app):
            return app.test_client()
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:flask")

    result.assert_outcomes(passed=2)
