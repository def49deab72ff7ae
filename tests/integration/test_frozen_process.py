"""A process that is frozen between requests, as on a host that bills by the request."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import DEADLINE, freeze, unmeasured, wait_until
from tests.isolation.fake_broker import FakeBroker, Message
from tests.rabbitmq import RabbitMQNode

ROOT = Path(__file__).parents[2]

#: RabbitMQ's log line when it closes a silent connection.
HUNG_UP = "missed heartbeats from client"

#: Handles a request for each line that it reads.
WORKER = """
import sys
from flask import Flask
from flask_eventcollector import EventCollector

app = Flask("worker")
app.config.from_prefixed_env()
events = EventCollector(app)


@app.post("/<int:number>")
def view(number):
    events.enqueue_event(number, sys.argv[1])
    return "ok"


for line in sys.stdin:
    print(app.test_client().post(f"/{line.strip()}").status_code, flush=True)
"""


class FrozenWorker:
    """A worker that runs only while it has a request."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._freeze()

    def request(self, number: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdout.readline() == "200\n"
        self._freeze()

    def _freeze(self) -> None:
        freeze(self._process.pid)


@contextmanager
def frozen_worker(url: str, queue: str) -> Iterator[FrozenWorker]:
    settings = {
        "BROKER_URL": url,
        "HEARTBEAT": "1",
        "RECONNECT_TIMEOUT": str(DEADLINE),
        "QUEUES": json.dumps({queue: {}}),
    }
    environment = {f"FLASK_EVENTCOLLECTOR_{k}": v for k, v in settings.items()}
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, queue],
        env=unmeasured() | environment | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield FrozenWorker(process)
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.rabbitmq
def test_a_process_that_is_frozen_after_each_request_delivers_all(
    rabbitmq: RabbitMQNode, queue_name: str
) -> None:
    with frozen_worker(rabbitmq.url, queue_name) as worker:
        for number in range(3):
            before = rabbitmq.log.count(HUNG_UP)
            worker.request(number)
            wait_until(
                lambda known=before: rabbitmq.log.count(HUNG_UP) > known,  # type: ignore[misc]
                "the broker hangs up",
            )
        worker.request(3)

        found = rabbitmq.get_all(queue_name)

    assert {message.json() for message in found} == {0, 1, 2, 3}
    assert len({message.id for message in found}) == 4


def test_a_process_that_wakes_up_does_not_trust_its_connection() -> None:
    # The broker's end of it was lost while the process slept.
    def answer(message: Message) -> str:
        return "ack" if message.body == b"0" or message.connection > 1 else "nothing"

    with FakeBroker(answer) as broker, frozen_worker(broker.url, "q") as worker:
        worker.request(0)
        threading.Event().wait(3)  # More than two heartbeats.
        worker.request(1)

        assert [m.body for m in broker.messages if m.connection == 2] == [b"1"]
