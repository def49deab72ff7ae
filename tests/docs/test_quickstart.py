"""The first steps of README and quickstart, as they are pasted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_eventcollector import EventCollector
from tests.conftest import require
from tests.docs.reader import ROOT, Example, find, find_one, runs
from tests.helpers import DEADLINE, unmeasured, wait_until
from tests.rabbitmq import RabbitMQNode, free_ports

PAGES = ("README.md", "docs/quickstart.md")
APPS = {page: find(page=page, language="python")[0] for page in PAGES}
SERVERS = {page: find_one(page=page, note="server") for page in PAGES}
CLIENTS = {page: find_one(page=page, note="client") for page in PAGES}
VARIABLES = {page: find(page=page, language="sh")[-1] for page in PAGES}
BODY = find_one(page="README.md", language="json")


@contextmanager
def served(page: str, folder: Path, port: str) -> Iterator[None]:
    """The page's app, started by the page's command."""
    (folder / "app.py").write_text(APPS[page].code)
    command = SERVERS[page].code.replace("flask", f"exec {sys.executable} -m flask", 1)
    log = folder / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=folder,
            env={**os.environ, **unmeasured(), "FLASK_RUN_PORT": port},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: f":{port}" in log.read_text(), "the server's address")
        yield
    finally:
        server.terminate()
        server.wait(DEADLINE)


@pytest.mark.parametrize("page", PAGES)
@runs(*APPS.values(), *SERVERS.values(), *CLIENTS.values())
def test_it_runs_as_it_is_pasted(page: str, tmp_path: Path) -> None:
    require(None if shutil.which("curl") else "curl (Debian: curl)")
    (port,) = map(str, free_ports(1))
    with served(page, tmp_path, port):
        client = CLIENTS[page].code.replace("5000", port).replace("curl", "curl -s")
        answers = subprocess.run(
            ["/bin/sh", "-e"], input=client, capture_output=True, text=True, timeout=60
        ).stdout

    assert answers.startswith("placed")
    if page == "docs/quickstart.md":
        assert json.loads(answers.removeprefix("placed\n"))["confirmed"] == 1
        text = (ROOT / page).read_text()
        (promised,) = re.findall(r"response contains `(.*?)`", text)
        assert promised in answers


def pasted(page: str) -> tuple[Flask, EventCollector]:
    """What the app's module defines."""
    names: dict[str, Any] = {"__name__": "app"}
    exec(APPS[page].code, names)
    return names["app"], names["events"]


@runs(BODY)
def test_the_payload_is_plain_json() -> None:
    app, events = pasted("README.md")

    app.test_client().post("/orders/7")

    [event] = events.broker.events("orders.created")  # type: ignore[attr-defined]
    assert event.body == BODY.code.strip().encode()
    assert events.close(5)


def exported(example: Example) -> dict[str, str]:
    """The variables that a shell has after the example."""
    script = f"{example.code}\nenv -0"
    output = subprocess.run(
        ["/bin/sh", "-e"], input=script, capture_output=True, text=True, check=True
    ).stdout
    variables = dict(line.split("=", 1) for line in output.split("\0") if line)
    return {k: v for k, v in variables.items() if k.startswith("FLASK_EVENTCOLLECTOR")}


@pytest.mark.parametrize("page", PAGES)
@runs(*VARIABLES.values())
def test_two_variables_lead_to_rabbitmq(
    page: str, rabbitmq: RabbitMQNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, queues = (f"FLASK_EVENTCOLLECTOR_{name}" for name in ("BROKER_URL", "QUEUES"))
    variables = exported(VARIABLES[page])
    assert variables.keys() == {url, queues}
    assert variables[url] == "amqp://guest:guest@localhost:5672/"
    monkeypatch.setenv(url, rabbitmq.url)
    monkeypatch.setenv(queues, variables[queues])
    app, events = pasted(page)

    app.test_client().post("/orders/7")

    assert events.close(10)
    [message] = rabbitmq.get_all("orders.created")
    assert message.json() == {"order_id": 7}
    rabbitmq.delete("orders.created")
