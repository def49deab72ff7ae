"""What the doctor says about a worker that is running, with a real broker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from flask_eventcollector.monitoring.history.reader import History
from tests.cli.support import FlaskEvents
from tests.helpers import wait_until
from tests.rabbitmq import RabbitMQNode, free_ports

pytestmark = pytest.mark.rabbitmq

WORKER = """
from tests.cli.shop_app import app, events
with app.app_context(), events.auto_publish():
    for number in range({count}):
        events.enqueue_event(number, {queue!r})
input()
"""


class Service:
    """An app with its backlog in memory, whose workers write a history."""

    def __init__(self, folder: Path, url: str) -> None:
        self.shell = FlaskEvents(folder / "unused", url)
        self.history = History(folder / "history", "shop")
        change = self.shell.environment
        change["FLASK_EVENTCOLLECTOR_HISTORY_DIR"] = str(self.history.folder)
        change["FLASK_EVENTCOLLECTOR_BACKLOG"] = "memory"
        del change["FLASK_EVENTCOLLECTOR_SPOOL_DIR"]

    @contextmanager
    def worker(self, queue: str, *, count: int = 3, waiting: int = 0) -> Iterator[int]:
        """The id of a worker for which some of *count* events wait."""
        with self.shell.python(WORKER.format(queue=queue, count=count)) as process:
            wait_until(lambda: self.waiting() == [waiting], "the worker has counted")
            yield process.pid

    def waiting(self) -> list[int]:
        if not self.history.folder.exists():
            return []
        return [
            one.books.retained
            for one in self.history.counts()
            if not one.books.in_flight
        ]

    def doctor(self) -> tuple[int, str]:
        found = self.shell("doctor")
        return found.returncode, found.stdout


@pytest.fixture
def service(rabbitmq: RabbitMQNode, tmp_path: Path) -> Service:
    return Service(tmp_path, rabbitmq.url)


@pytest.fixture
def queue(rabbitmq: RabbitMQNode) -> Iterator[str]:
    name = f"orders-{uuid4().hex}"
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    with rabbitmq.channel() as channel:
        channel.queue_declare(name, durable=True, arguments=arguments)
    yield name
    rabbitmq.delete(name)


def test_one_that_has_sent_all_is_in_order(service: Service, queue: str) -> None:
    with service.worker(queue, count=1) as pid:
        code, said = service.doctor()
    assert (code, "\nwarning" in said) == (0, False)
    assert f"process {pid}: no trouble with the broker or the disk" in said


def test_events_that_a_full_queue_refuses_are_told(
    service: Service, queue: str
) -> None:
    with service.worker(queue, count=3, waiting=2):
        code, said = service.doctor()
    assert code == 3
    assert (
        f"problem  targets   2 events wait for queue '{queue}', not confirmed" in said
    )
    assert f"the queue '{queue}' refused it: see whether the queue is full" in said


def test_an_old_password_is_told_without_it(service: Service, queue: str) -> None:
    url = service.shell.environment["FLASK_EVENTCOLLECTOR_BROKER_URL"]
    old = url.replace("guest:guest", "guest:the-planted-password")
    service.shell.environment["FLASK_EVENTCOLLECTOR_BROKER_URL"] = old
    with service.worker(queue, waiting=3) as pid:
        service.shell.environment["FLASK_EVENTCOLLECTOR_BROKER_URL"] = url
        code, said = service.doctor()
    assert code == 3
    assert f"process {pid} can't use the broker, which lets this command in: " in said
    assert "wrong user name or password" in said
    assert "the 3 events in memory would be lost" in said
    assert f"as in the environment of process {pid}: restart" in said
    assert "planted" not in said


def test_those_that_an_outage_keeps_from_sending_are_told(
    service: Service, queue: str
) -> None:
    (port,) = free_ports(1)
    url = f"amqp://guest:guest@127.0.0.1:{port}/"
    service.shell.environment["FLASK_EVENTCOLLECTOR_BROKER_URL"] = url
    with service.worker(queue, waiting=3) as pid:
        code, said = service.doctor()
    assert code == 3
    assert (
        f"process {pid} can't send, either: the broker is down: 127.0.0.1:{port}:"
        " Connection refused; 3 events wait" in said
    )
    assert "if the settings were wrong (the 3 events in memory would be lost)" in said
    assert "no trouble with the broker" not in said


def test_one_that_was_stopped_is_told(service: Service, queue: str) -> None:
    with service.worker(queue, count=1) as pid:
        os.kill(pid, signal.SIGSTOP)
        code, said = service.doctor()
    assert code == 3
    assert (
        f"stopped by a signal or a debugger, so nothing is sent: process {pid}" in said
    )
