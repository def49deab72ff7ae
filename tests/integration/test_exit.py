"""The end of a process: its events are delivered or counted, and it never hangs."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import unmeasured
from tests.integration import load
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq

ROOT = Path(__file__).parents[2]

#: Longer than the default: a busy machine is not to be taken for a second wait.
SHUTDOWN_TIMEOUT = 4.0
#: ``SHUTDOWN_TIMEOUT``, and less than once more, for a busy machine.
LONGEST_EXIT = SHUTDOWN_TIMEOUT + 3.9

SCRIPT = f"""
import sys, time
from flask import Flask
from flask_eventcollector import EventCollector

app = Flask("script")
app.config["EVENTCOLLECTOR_BROKER_URL"] = sys.argv[1]
app.config["EVENTCOLLECTOR_QUEUES"] = {{sys.argv[2]: {{}}}}
is_patient = "patient" in sys.argv
app.config["EVENTCOLLECTOR_SHUTDOWN_TIMEOUT"] = 20 if is_patient else {SHUTDOWN_TIMEOUT}
events = EventCollector(app)
if "connect" in sys.argv:
    events.enqueue_event("first", sys.argv[2])
    assert events.publish(timeout=20).complete
print("ready", flush=True)
sys.stdin.readline()
events.enqueue_event("last", sys.argv[2])
if "forget" not in sys.argv:
    events.publish()
print(events.stats().as_dict(), time.time(), flush=True)
"""


@dataclass
class Ended:
    """How a script ended."""

    code: int
    #: Seconds from the script's last line to the end of the process.
    seconds: float
    log: str


class Script:
    """A script in a separate process, which waits for a signal before it publishes."""

    def __init__(self, url: str, queue: str, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, url, queue, *options],
            env=unmeasured() | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def finish(self) -> Ended:
        output, log = self._process.communicate("go\n", timeout=30)
        last_line_at = float(output.split()[-1])
        return Ended(self._process.returncode, time.time() - last_line_at, log)


@pytest.fixture
def queue() -> str:
    return load.fresh_queue()


def assert_bounded(ended: Ended) -> None:
    assert ended.code == 0
    assert ended.seconds < LONGEST_EXIT


def test_a_script_that_publishes_once_and_ends_loses_nothing(
    rabbitmq: RabbitMQNode, queue: str
) -> None:
    for _ in range(5):
        # A busy machine may take long to connect.
        ended = Script(rabbitmq.url, queue, "patient").finish()

        assert ended.code == 0
        # It may also have waited in vain, and say so.
        assert "Dropped" not in ended.log
    assert [m.json() for m in rabbitmq.get_all(queue)] == ["last"] * 5
    rabbitmq.delete(queue)


def test_a_script_that_never_publishes_is_warned(
    rabbitmq: RabbitMQNode, queue: str
) -> None:
    ended = Script(rabbitmq.url, queue, "forget").finish()

    assert_bounded(ended)
    assert f"Discarded 1 event for {queue}: never published" in ended.log


def test_a_frozen_broker_does_not_hold_up_the_exit(
    private_rabbitmq: RabbitMQNode, queue: str
) -> None:
    script = Script(private_rabbitmq.url, queue, "connect")
    private_rabbitmq.freeze()

    ended = script.finish()

    assert_bounded(ended)
    assert f"Dropped 1 event for {queue}" in ended.log


def test_an_alarm_does_not_hold_up_the_exit(
    private_rabbitmq: RabbitMQNode, queue: str
) -> None:
    script = Script(private_rabbitmq.url, queue, "connect")
    private_rabbitmq.memory_alarm(True)

    ended = script.finish()

    assert_bounded(ended)
    assert f"Dropped 1 event for {queue}" in ended.log


def test_an_unreachable_broker_does_not_delay_the_exit(
    private_rabbitmq: RabbitMQNode, queue: str
) -> None:
    script = Script(private_rabbitmq.url, queue, "connect")
    private_rabbitmq.kill()

    ended = script.finish()

    assert_bounded(ended)
    assert f"Dropped 1 event for {queue}" in ended.log
