"""Debian's Prometheus, with the board's queries and the alert rules of the docs."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.helpers import DEADLINE, wait_until
from tests.rabbitmq import free_ports

DOCS = Path(__file__).parent.parent.parent / "docs" / "operation"
ALERTS = yaml.safe_load((DOCS / "alerts.yml").read_text())
BOARD: dict[str, Any] = json.loads((DOCS / "grafana.json").read_text())

#: Scrapes and looks at the rules often, so that a test need not wait.
_EVERY = "500ms"
_WINDOW = "5s"


class PrometheusServer:
    """Scrapes *targets*, with the alert rules of the docs, but for their patience."""

    def __init__(self, folder: Path, targets: Sequence[str]) -> None:
        (port,) = free_ports(1)
        self._url = f"http://127.0.0.1:{port}"
        (folder / "alerts.yml").write_text(yaml.safe_dump(_impatient()))
        (folder / "prometheus.yml").write_text(yaml.safe_dump(_config(targets)))
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--web.listen-address=127.0.0.1:{port}",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
            ]
        )
        wait_until(self._is_ready, "Prometheus is ready")

    def _is_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"{self._url}/-/ready", timeout=DEADLINE).close()
        except OSError:
            return False
        return True

    def panel(self, title: str) -> dict[str, float]:
        """What a panel of the board shows now, by its legend."""
        (panel,) = (panel for panel in BOARD["panels"] if panel["title"] == title)
        return {
            _legend(target["legendFormat"], series["metric"]): float(series["value"][1])
            for target in panel["targets"]
            for series in self._ask("query", query=_filled(target["expr"]))["result"]
        }

    def alerts(self) -> dict[str, str]:
        """What the alerts say that fire now, by their names."""
        return {
            alert["labels"]["alertname"]: alert["annotations"]["summary"]
            for alert in self._ask("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait(20)

    def _ask(self, what: str, **query: str) -> Any:
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return json.load(response)["data"]


def _config(targets: Sequence[str]) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": _EVERY, "evaluation_interval": _EVERY},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [
            {"job_name": "shop", "static_configs": [{"targets": [*targets]}]}
        ],
    }


def _impatient() -> dict[str, Any]:
    """The rules, which wait for a second, and look back for a few."""
    rules = [dict(rule) for group in ALERTS["groups"] for rule in group["rules"]]
    for rule in rules:
        rule["expr"] = re.sub(r"\[\d+m\]", f"[{_WINDOW}]", rule["expr"])
        if "for" in rule:
            rule["for"] = "1s"
    return {"groups": [{"name": "impatient", "rules": rules}]}


def _filled(expression: str) -> str:
    """What Grafana makes of an expression of the board."""
    return expression.replace("$__rate_interval", _WINDOW).replace("$app", ".*")


def _legend(text: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), text)
