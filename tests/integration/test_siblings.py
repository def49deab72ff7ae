"""An idle process hears from another one with the same folder that RabbitMQ is back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import DEADLINE, unmeasured, wait_until
from tests.integration import load, scripts
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq

#: It is in use only while it calls, and then pauses for half an hour on average. After
#: the flush, it knows its own file.
IDLE = """
from flask_eventcollector.brokers.rabbitmq import RabbitMQBroker
RabbitMQBroker.reconnect_soon.__defaults__ = (0.0,)
events.enqueue_event("waits", queue)
events.publish()
print(events.flush(1), flush=True)
sys.stdin.read()
"""
LONG_PAUSES = {
    "FLASK_EVENTCOLLECTOR_RETRY_DELAY": "3600",
    "FLASK_EVENTCOLLECTOR_RETRY_MAX_DELAY": "3600",
}

#: It connects at its first event.
SIBLING = """
events.enqueue_event("new", queue)
print(events.publish(timeout=20).complete, flush=True)
sys.stdin.read()
"""


@contextmanager
def process(code: str, *args: str) -> Iterator[str]:
    """Run *code* during the block, and end it by force; yields its first line."""
    command = [sys.executable, "-c", scripts.APP + code, *args, ""]
    env = unmeasured() | LONG_PAUSES
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, env=env
    ) as running:
        assert running.stdout is not None
        yield running.stdout.readline().strip()
        running.kill()


def test_an_idle_process_hears_of_it_from_a_sibling(
    private_rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    queue = private_rabbitmq.declare(load.fresh_queue())
    args = (private_rabbitmq.url, str(tmp_path / "spool"), queue)
    private_rabbitmq.stop_app()
    with process(IDLE, *args) as line:
        assert line == "False"
        private_rabbitmq.start_app()
        with process(SIBLING, *args) as line:
            assert line == "True"
            wait_until(
                lambda: private_rabbitmq.count(queue) == 2,
                f"both events arrive within {DEADLINE} s",
            )
