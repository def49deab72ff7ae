"""The alert rules and the board ask for metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml

from flask_eventcollector import Stats
from flask_eventcollector.monitoring.outbox import OutboxFigures
from flask_eventcollector.monitoring.prometheus import PrometheusOutbox
from tests.conftest import require
from tests.helpers import Shop

DOCS = Path(__file__).parent.parent.parent / "docs" / "operation"
ALERTS = yaml.safe_load((DOCS / "alerts.yml").read_text())
BOARD: dict[str, Any] = json.loads((DOCS / "grafana.json").read_text())

#: What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$app": ".*"}


def asked() -> list[str]:
    """All expressions of the rules and the board."""
    rules = [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]
    targets = [target for panel in BOARD["panels"] for target in panel["targets"]]
    return rules + [target["expr"] for target in targets]


def test_each_metric_and_label_exists() -> None:
    shop = Shop(name="shop-of-the-board", METRICS="prometheus")
    shop.enqueue(1)
    shop.events.close(1)
    rows = dict.fromkeys(("free", "held", "delayed", "dead"), 1)
    PrometheusOutbox(shop.name, lambda: OutboxFigures(rows, 1.0)).observe([], Stats())
    families = {f.name: f for f in prometheus_client.REGISTRY.collect()}
    for expression in asked():
        for name in re.findall(r"eventcollector_\w+", expression):
            base = re.sub(r"_(total|bucket)$", "", name)
            assert base in families, name
    for name in ("eventcollector_held_events", "eventcollector_outbox_events"):
        states = {sample.labels["state"] for sample in families[name].samples}
        named = re.findall(rf'{name}{{state="(\w+)"', " ".join(asked()))
        assert named
        assert set(named) <= states
    outcomes = re.findall(r'_events_total{outcome="(\w+)"', " ".join(asked()))
    assert set(outcomes) <= {"dropped", "confirmed", "enqueued", "discarded"}


@pytest.mark.parametrize(
    "rule", [r for g in ALERTS["groups"] for r in g["rules"]], ids=lambda r: r["alert"]
)
def test_each_alert_names_its_page(rule: dict[str, Any]) -> None:
    _, _, page = rule["annotations"]["runbook_url"].partition("/blob/main/docs/")
    assert rule["alert"] in (DOCS.parent / page).read_text()


def test_promtool_accepts_all_of_them(tmp_path: Path) -> None:
    require(None if shutil.which("promtool") else "promtool")
    rules = []
    for place, expression in enumerate(asked()):
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        rules.append({"record": f"rule:{place}", "expr": expression})
    (tmp_path / "all.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]})
    )
    for file in (DOCS / "alerts.yml", tmp_path / "all.yml"):
        run = subprocess.run(
            ["promtool", "check", "rules", str(file)], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stdout + run.stderr


RELAY = 'eventcollector_outbox_relay_last_active_timestamp_seconds{app="shop"}'
REFUSED = 'eventcollector_refusals_total{app="shop",queue="q",outcome="returned"}'

#: A series, minute by minute, and the alert that it raises after 20 minutes, or not;
#: ``stale``, ``_``: the target is gone.
SEEN = {
    "active": (RELAY, "0+60x20", "OutboxWithoutRelay", False),
    "killed, with shared files": (RELAY, "0+60x5 300x15", "OutboxWithoutRelay", True),
    "killed, with a port": (RELAY, "0+60x5 stale _x14", "OutboxWithoutRelay", True),
    "never active": (RELAY, "0x20", "OutboxWithoutRelay", True),
    "refused at each retry": (REFUSED, "1+1x20", "EventsRefused", True),
    "refused once": (REFUSED, "0x12 1x8", "EventsRefused", False),
    "accepted at last": (REFUSED, "1+1x13 14x7", "EventsRefused", False),
}


@pytest.mark.parametrize("seen", SEEN)
def test_an_alert_is_raised_when_it_should_be(tmp_path: Path, seen: str) -> None:
    require(None if shutil.which("promtool") else "promtool")
    series, values, alert, is_told = SEEN[seen]
    case = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values}],
        "alert_rule_test": [
            {
                "eval_time": "20m",
                "alertname": alert,
                "exp_alerts": [_told(alert, series)] * is_told,
            }
        ],
    }
    file = tmp_path / "tests.yml"
    rules = [str(DOCS / "alerts.yml")]
    file.write_text(
        yaml.safe_dump(
            {"rule_files": rules, "evaluation_interval": "1m", "tests": [case]}
        )
    )
    run = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def _told(alert: str, series: str) -> dict[str, Any]:
    """What the alert says of a series."""
    (rule,) = (r for g in ALERTS["groups"] for r in g["rules"] if r["alert"] == alert)
    labels = dict(re.findall(r'(app|queue)="(\w+)"', series))
    summary = rule["annotations"]["summary"]
    for name, value in labels.items():
        summary = summary.replace(f"{{{{ $labels.{name} }}}}", value)
    return {
        "exp_labels": labels | rule["labels"],
        "exp_annotations": rule["annotations"] | {"summary": summary},
    }
