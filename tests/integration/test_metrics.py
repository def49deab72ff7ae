"""Prometheus scrapes an app with three gunicorn workers, one of which is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.docs.reader import find_one
from tests.helpers import unmeasured, wait_until
from tests.integration import load
from tests.rabbitmq import RabbitMQNode

FILES = ("shop.py", "gunicorn.conf.py")

pytestmark = pytest.mark.rabbitmq

#: Enqueues more than the page's view does.
VIEW = """
import os

@app.post("/<queue>/<int:count>")
def enqueue(queue, count):
    for place in range(count):
        events.enqueue_event(place, queue)
    return str(os.getpid())
"""


class Server:
    """The app under gunicorn."""

    def __init__(self, folder: Path, broker: str) -> None:
        app, conf = (find_one(page="docs/monitoring.md", file=f) for f in FILES)
        (folder / app.file).write_text(app.code + VIEW)
        (folder / conf.file).write_text(conf.code)
        (folder / "metrics").mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._port, self._url = port, f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "-w", "3"),
                *("-b", f"127.0.0.1:{port}", "shop:app"),
            ],
            cwd=folder,
            env=unmeasured()
            | {
                "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
                "FLASK_EVENTCOLLECTOR_BROKER_URL": broker,
            },
        )
        wait_until(self._responds, "gunicorn responds")

    def _responds(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def post(self, queue: str, count: int) -> int:
        """Enqueue *count* events; returns which worker did."""
        url = f"{self._url}/{queue}/{count}"
        request = urllib.request.Request(url, method="POST")
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.read())

    def scrape(self) -> dict[str, float]:
        """The values of all series, by name and the label that varies.

        There are none if that fails, as it may while a worker creates its files.
        """
        try:
            url = f"{self._url}/metrics"
            with urllib.request.urlopen(url, timeout=10) as response:
                text = response.read().decode()
        except OSError:
            return {}
        return {
            " ".join([sample.name, *_varying(sample.labels)]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def close(self) -> None:
        """Stop the workers."""
        self._process.terminate()
        self._process.wait(20)


def _varying(labels: dict[str, str]) -> list[str]:
    return [v for k, v in labels.items() if k in ("outcome", "state")]


@pytest.fixture
def server(rabbitmq: RabbitMQNode, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, rabbitmq.url)
    yield server
    server.close()


def test_three_workers_are_one_app_also_after_a_kill(
    server: Server, rabbitmq: RabbitMQNode
) -> None:
    queue, missing = rabbitmq.declare(load.fresh_queue()), load.fresh_queue()
    workers: dict[int, int] = {}
    while len(workers) < 3 or min(workers.values()) < 2:
        worker = server.post(queue, 5)
        workers[worker] = workers.get(worker, 0) + 1
    posted = sum(workers.values())

    def shows(**expected: float) -> bool:
        found = server.scrape()
        names = {
            "confirmed": "eventcollector_events_total confirmed",
            "enqueued": "eventcollector_events_total enqueued",
            "retained": "eventcollector_held_events retained",
            "at_risk": "eventcollector_held_events at_risk",
            "waits": "eventcollector_request_wait_seconds_count",
        }
        return expected == {name: found.get(names[name], -1.0) for name in expected}

    wait_until(lambda: shows(confirmed=5 * posted, waits=posted), "the sum of all")

    # A worker that waits in vain, and its events die with it.
    victim = server.post(missing, 7)
    wait_until(lambda: shows(retained=7, at_risk=7), "what would be lost")
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: shows(retained=0, at_risk=0), "its gauges are gone")
    # What it had counted stays.
    wait_until(
        lambda: shows(confirmed=5 * posted, enqueued=5 * posted + 7), "its counters"
    )
