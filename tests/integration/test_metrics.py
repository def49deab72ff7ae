"""Prometheus scrapes an app with three gunicorn workers, one of which is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import wait_until
from tests.integration import load
from tests.integration.serving import Server
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq


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
