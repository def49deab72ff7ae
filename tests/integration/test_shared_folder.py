"""Two services whose apps have the same name, and share the spool's folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.integration import load
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq

SERVICE = """
import os, signal, sys
from flask import Flask
from flask_eventcollector import EventCollector
from flask_eventcollector.testing import FaultInjector

url, folder, queue, number = sys.argv[1:]
app = Flask("app")
app.config["EVENTCOLLECTOR_BROKER_URL"] = url
app.config["EVENTCOLLECTOR_BACKLOG"] = "spool"
app.config["EVENTCOLLECTOR_SPOOL_DIR"] = folder
app.config["EVENTCOLLECTOR_QUEUES"] = {queue: {}}
events = EventCollector(app)
"""

KILLED = """
FaultInjector.of(events.broker).go_down()
with events.auto_publish():
    for place in range(5):
        events.enqueue_event([number, place], queue)
os.kill(os.getpid(), signal.SIGKILL)
"""

FLUSH = "print(events.flush(20), events.stats().confirmed)"


@pytest.fixture
def billing(rabbitmq: RabbitMQNode) -> Iterator[str]:
    """The URL of a new virtual host."""
    name = load.fresh_queue()
    all_of_it = ", ".join(['<<".*">>'] * 3)
    rabbitmq.eval(
        f'rabbit_vhost:add(<<"{name}">>, <<"test">>),'
        " rabbit_auth_backend_internal:set_permissions("
        f'<<"guest">>, <<"{name}">>, {all_of_it}, <<"test">>).'
    )
    yield rabbitmq.url + name
    rabbitmq.eval(f'rabbit_vhost:delete(<<"{name}">>, <<"test">>).')


def get_all(url: str, queue: str) -> list[Any]:
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        bodies = []
        while (body := channel.basic_get(queue, auto_ack=True)[2]) is not None:
            bodies.append(json.loads(body))
        return bodies


def test_what_one_has_left_never_goes_to_the_other_s_virtual_host(
    rabbitmq: RabbitMQNode, billing: str, tmp_path: Path
) -> None:
    stock, queue = rabbitmq.url, load.fresh_queue()

    def run(url: str, code: str, number: str = "") -> str:
        arguments = [url, str(tmp_path / "spool"), queue, number]
        ended = subprocess.run(
            [sys.executable, "-c", SERVICE + code, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return ended.stdout

    run(stock, KILLED, "stock")
    run(billing, KILLED, "billing")

    # With another node in front, the broker is the same one.
    assert run(f"amqp://127.0.0.1:1/;{stock}", FLUSH) == "True 5\n"
    assert run(stock, FLUSH) == "True 0\n"
    assert run(billing, FLUSH) == "True 5\n"

    assert get_all(stock, queue) == [["stock", place] for place in range(5)]
    assert get_all(billing, queue) == [["billing", place] for place in range(5)]
    rabbitmq.delete(queue)
