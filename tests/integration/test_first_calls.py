"""A script whose first call concerns events of killed processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import load
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq

APP = """
import os, signal, sys
from flask import Flask
from flask_eventcollector import EventCollector
from flask_eventcollector.testing import FaultInjector

url, folder, queue, number = sys.argv[1:]
app = Flask("shop")
app.config["EVENTCOLLECTOR_BROKER_URL"] = url
app.config["EVENTCOLLECTOR_BACKLOG"] = "spool"
app.config["EVENTCOLLECTOR_SPOOL_DIR"] = folder
app.config["EVENTCOLLECTOR_QUEUES"] = {queue: {}}
events = EventCollector(app)
"""

KILLED = """
FaultInjector.of(events.broker).go_down()
with events.auto_publish():
    for place in range(50):
        events.enqueue_event([int(number), place], queue)
assert events.stats().spooled >= 50
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("call", ["flush", "close"])
def test_it_delivers_what_two_killed_processes_have_left(
    rabbitmq: RabbitMQNode, tmp_path: Path, call: str
) -> None:
    queue = load.fresh_queue()

    def run(code: str, number: int) -> subprocess.CompletedProcess[str]:
        arguments = [rabbitmq.url, str(tmp_path / "spool"), queue, str(number)]
        return subprocess.run(
            [sys.executable, "-c", APP + code, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )

    for number in (1, 2):
        assert run(KILLED, number).returncode == -9

    script = run(f"print(events.{call}(10))", 0)

    assert script.stdout == "True\n", script.stderr
    messages = [message.json() for message in rabbitmq.get_all(queue)]
    assert sorted(messages) == [[n, place] for n in (1, 2) for place in range(50)]
    rabbitmq.delete(queue)
