"""An app under gunicorn with three workers, as docs/monitoring.md has it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.docs.reader import find_one
from tests.helpers import DEADLINE, unmeasured, wait_until
from tests.rabbitmq import free_ports

FILES = ("shop.py", "gunicorn.conf.py")

#: Enqueues more than the page's view does.
VIEW = """
import os

app.register_blueprint(events.dashboard(authorize=lambda: True))

@app.post("/<queue>/<int:count>")
def enqueue(queue, count):
    for place in range(count):
        events.enqueue_event(place, queue)
    return str(os.getpid())

@app.post("/id/<queue>")
def enqueue_one(queue):
    return events.enqueue_event(0, queue).id
"""


class Server:
    """The app under gunicorn."""

    def __init__(self, folder: Path, broker: str, **settings: str) -> None:
        self._folder = folder
        app, conf = (find_one(page="docs/monitoring.md", file=f) for f in FILES)
        (folder / app.file).write_text(app.code + VIEW)
        (folder / conf.file).write_text(conf.code)
        (folder / "metrics").mkdir()
        (port,) = free_ports(1)
        self._port, self.address = port, f"127.0.0.1:{port}"
        self._url = f"http://{self.address}"
        settings |= {"BROKER_URL": broker}
        named = {f"FLASK_EVENTCOLLECTOR_{k}": v for k, v in settings.items()}
        metrics = {"PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")}
        self._environment = unmeasured() | metrics | named
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "-w", "3"),
                *("-b", f"127.0.0.1:{port}", "shop:app"),
            ],
            cwd=folder,
            env=self._environment,
        )
        wait_until(self._responds, "gunicorn responds")

    def _responds(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def post_one(self, queue: str) -> str:
        """Enqueue an event; returns its id."""
        request = urllib.request.Request(f"{self._url}/id/{queue}", method="POST")
        with urllib.request.urlopen(request, timeout=DEADLINE) as response:
            return str(response.read().decode())

    def post(self, queue: str, count: int) -> int:
        """Enqueue *count* events; returns which worker did."""
        url = f"{self._url}/{queue}/{count}"
        request = urllib.request.Request(url, method="POST")
        with urllib.request.urlopen(request, timeout=DEADLINE) as response:
            return int(response.read())

    def scrape(self) -> dict[str, float]:
        """The values of all series, by name and the label that varies.

        There are none if that fails, as it may while a worker creates its files.
        """
        try:
            url = f"{self._url}/metrics"
            with urllib.request.urlopen(url, timeout=DEADLINE) as response:
                text = response.read().decode()
        except OSError:
            return {}
        return {
            " ".join([sample.name, *_varying(sample.labels)]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def dashboard(self) -> Any:
        """What the dashboard's first page shows."""
        url = f"{self._url}/eventcollector/live"
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return json.load(response)

    def events(self, *args: str) -> Any:
        """What a command of ``flask events`` says in JSON."""
        command = [sys.executable, "-m", "flask", "--app", "shop", "events", *args]
        run = subprocess.run(
            [*command, "--json"],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.stdout, run.stderr
        return json.loads(run.stdout)

    def close(self) -> None:
        """Stop the workers."""
        self._process.terminate()
        self._process.wait(20)


def _varying(labels: dict[str, str]) -> list[str]:
    return [v for k, v in labels.items() if k in ("outcome", "state")]
