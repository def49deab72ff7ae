"""A real Prometheus asks what the board and the alert rules ask, while things fail."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import require
from tests.helpers import wait_until
from tests.integration import load
from tests.integration.prometheus_server import PrometheusServer
from tests.integration.serving import Server
from tests.rabbitmq import RabbitMQNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]


@pytest.fixture
def server(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> Iterator[Server]:
    require(None if shutil.which("prometheus") else "prometheus")
    server = Server(tmp_path, private_rabbitmq.url, MAX_EVENTS="20")
    yield server
    server.close()


@pytest.fixture
def prometheus(server: Server, tmp_path: Path) -> Iterator[PrometheusServer]:
    started = PrometheusServer(tmp_path, [server.address])
    yield started
    started.close()


def test_the_board_and_the_alerts_tell_what_happens(
    server: Server, prometheus: PrometheusServer, private_rabbitmq: RabbitMQNode
) -> None:
    queue, missing = private_rabbitmq.declare(load.fresh_queue()), load.fresh_queue()

    def shows(title: str, legend: str = "shop") -> float:
        """What a panel shows; below 0: nothing."""
        return prometheus.panel(title).get(legend, -1.0)

    def grows(title: str, legend: str) -> bool:
        """Whether a panel shows anything, with one more event."""
        server.post(queue, 1)
        return shows(title, legend) > 0

    def fires(*names: str) -> bool:
        return {*prometheus.alerts()} == {*names}

    workers = set[int]()
    while len(workers) < 3:
        workers.add(server.post(queue, 5))
    wait_until(partial(grows, "Events per second", "confirmed"), "events per second")
    assert shows("Events per second", "dropped") == shows("Reconnects") == 0
    for title in ("Seconds from hand-over to confirm", "Seconds that requests wait"):
        wait_until(partial(grows, title, "p99"), title)
    wait_until(lambda: shows("Broker ready") == 1 and fires(), "all is well")

    private_rabbitmq.close_all_connections()
    wait_until(lambda: shows("Reconnects") > 0, "the first reconnects")

    private_rabbitmq.memory_alarm(True)
    server.post(queue, 5)
    wait_until(lambda: fires("BrokerUnavailable"), "an alert while it is blocked")
    assert shows("Broker ready") == 0
    assert shows("Events held", "at_risk") == 5
    assert shows("Age of the oldest undelivered event") > 0
    private_rabbitmq.memory_alarm(False)
    wait_until(lambda: shows("Events held", "at_risk") == 0, "all is delivered")
    wait_until(lambda: fires(), "no alert any more")

    victim = server.post(missing, 30)
    wait_until(lambda: "EventsDropped" in prometheus.alerts(), "an alert of the drop")
    wait_until(lambda: "EventsRefused" in prometheus.alerts(), "one of the queue")
    # One target gets nine tenths of the room.
    assert shows("Events held", "at_risk") == 18
    wait_until(lambda: shows("Refusals per second", "other: returned") > 0, "refusals")
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: shows("Events held", "at_risk") == 0, "its gauges are gone")
    wait_until(lambda: fires(), "no alert any more")
