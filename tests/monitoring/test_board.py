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


#: What the alert has seen, minute by minute; ``stale``, ``_``: the target is gone.
RELAYS = {
    "active": ("0+60x20", False),
    "killed, with shared files": ("0+60x5 300x15", True),
    "killed, with a port": ("0+60x5 stale _x14", True),
    "never active": ("0x20", True),
}


@pytest.mark.parametrize("relay", RELAYS)
def test_without_an_active_relay_there_is_an_alert(tmp_path: Path, relay: str) -> None:
    require(None if shutil.which("promtool") else "promtool")
    values, is_told = RELAYS[relay]
    name = "eventcollector_outbox_relay_last_active_timestamp_seconds"
    (rule,) = (
        rule
        for group in ALERTS["groups"]
        for rule in group["rules"]
        if rule["alert"] == "OutboxWithoutRelay"
    )
    told = {
        "exp_labels": {"app": "shop"} | rule["labels"],
        "exp_annotations": {
            "summary": rule["annotations"]["summary"].replace(
                "{{ $labels.app }}", "shop"
            ),
            "runbook_url": rule["annotations"]["runbook_url"],
        },
    }
    case = {
        "interval": "1m",
        "input_series": [{"series": f'{name}{{app="shop"}}', "values": values}],
        "alert_rule_test": [
            {
                "eval_time": "20m",
                "alertname": rule["alert"],
                "exp_alerts": [told] * is_told,
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
