"""The examples of docs/monitoring.md."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from flask import Flask

from flask_eventcollector import Config
from flask_eventcollector.testing import FaultInjector
from tests.docs.modules import imported
from tests.docs.reader import find_one, runs

PAGE = "docs/monitoring.md"
SETTINGS, OTEL, HISTORY, CONF, SHOP, TOOLBAR, HEALTH, HEALTHZ, PROBES = (
    find_one(page=PAGE, file=name)
    for name in (
        "settings.py",
        "otel_settings.py",
        "history_settings.py",
        "gunicorn.conf.py",
        "shop.py",
        "toolbar.py",
        "health.py",
        "healthz.py",
        "probes.yml",
    )
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for more than two events."""
    monkeypatch.setenv("FLASK_TESTING", "true")
    monkeypatch.setenv("FLASK_EVENTCOLLECTOR_MAX_EVENTS", "2")


@runs(SETTINGS)
@runs(OTEL)
@pytest.mark.parametrize("example", [SETTINGS, OTEL], ids=str)
def test_the_settings_are_right(example: Any) -> None:
    with imported(example) as (settings,):
        app = Flask("shop")
        app.config.from_object(settings)
        chosen = app.config["EVENTCOLLECTOR_METRICS"]
        chosen = [chosen] if isinstance(chosen, str) else chosen
        assert [str(m) for m in Config.from_app(app).metrics] == chosen


@runs(HISTORY)
def test_the_folder_of_the_history_is_valid() -> None:
    with imported(HISTORY) as (settings,):
        app = Flask("shop")
        app.config.from_object(settings)
        folder = app.config["EVENTCOLLECTOR_HISTORY_DIR"]
        assert str(Config.from_app(app).history_dir) == folder


@runs(CONF)
@runs(SHOP)
def test_the_app_serves_its_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/integration/test_metrics.py runs both under gunicorn."""
    with imported(SHOP) as (shop,):
        assert shop.app.test_client().post("/orders/7").text == "created"
        assert shop.events.health().is_live
        shop.events.close(1)
    compile(CONF.code, CONF.file, "exec")


def overfill(events: Any) -> None:
    FaultInjector.of(events.broker).go_down()
    for place in range(2):
        events.enqueue_event(place, "q")
    events.publish()


def paths() -> tuple[str, str]:
    probes = yaml.safe_load(PROBES.code)
    live, ready = (
        probes[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness")
    )
    return live["path"], ready["path"]


@runs(HEALTH)
@runs(PROBES)
def test_a_process_that_would_lose_events_gets_no_more_requests() -> None:
    live, ready = paths()
    with imported(HEALTH) as (health,):
        client = health.app.test_client()
        assert client.get(live).status_code == client.get(ready).status_code == 200
        overfill(health.events)
        assert client.get(live).status_code == 200
        response = client.get(ready)
        assert response.status_code == 503
        assert response.json["checks"]["backlog"]["status"] == "failing"
        health.events.close(0)


@runs(HEALTHZ)
def test_flask_healthz_asks_the_same() -> None:
    with imported(HEALTHZ) as (healthz,):
        client = healthz.app.test_client()
        assert client.get("/healthz/ready").status_code == 200
        overfill(healthz.events)
        assert client.get("/healthz/live").status_code == 200
        assert client.get("/healthz/ready").status_code == 503
        healthz.events.close(0)


@runs(TOOLBAR)
def test_the_panel_shows_what_became_of_a_json_request() -> None:
    pytest.importorskip("flask_debugtoolbar")
    with imported(TOOLBAR) as (shop,):
        client = shop.app.test_client()
        id = client.post("/orders").get_json()["event"]
        assert [e.id for e in shop.events.broker.events("orders.created")] == [id]
        page = client.get("/").get_data(as_text=True)
        assert "1 event, 1 earlier" in page
        for text in ("POST /orders → 201", "confirmed", "tenant: t1", "in index"):
            assert text in page
