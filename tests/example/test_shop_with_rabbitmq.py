"""The shop, its commands and its worker with a real RabbitMQ, in separate processes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pika import BasicProperties

from example_app.publishing import QUEUES
from example_app.worker import URL_VARIABLE
from tests.rabbitmq import Message, RabbitMQNode

from .conftest import OpenShop
from .support import (
    DEADLINE,
    PYTHON,
    ROOT,
    books,
    environment,
    order,
    run_python,
    script_client,
    state,
    wait_for,
)

pytestmark = pytest.mark.rabbitmq

ORDER = b'{"order_id": 7, "total": "1.00"}'

Queues = Mapping[str, Mapping[str, Any]]


class StartWorker(Protocol):
    """Starts a worker, which is stopped and checked at the end of the block."""

    def __call__(
        self, queues: Queues = QUEUES, **variables: str
    ) -> AbstractContextManager[subprocess.Popen[bytes]]: ...


@pytest.fixture
def shop_on_rabbitmq(
    open_shop: OpenShop, private_rabbitmq: RabbitMQNode
) -> Iterator[Flask]:
    """Return a shop that publishes to RabbitMQ."""
    with open_shop(
        EVENTCOLLECTOR_BROKER_URL=private_rabbitmq.url,
        EVENTCOLLECTOR_TESTING_BROKER=True,
        EVENTCOLLECTOR_RETRY_DELAY=0.1,
        EVENTCOLLECTOR_RETRY_MAX_DELAY=0.5,
    ) as app:
        yield app


@pytest.fixture
def visitor(shop_on_rabbitmq: Flask) -> FlaskClient:
    """Return a client of the shop on RabbitMQ."""
    return script_client(shop_on_rabbitmq)


@pytest.fixture
def start_worker(tmp_path: Path, private_rabbitmq: RabbitMQNode) -> StartWorker:
    """Start workers as a user would."""

    @contextmanager
    def started(
        queues: Queues = QUEUES, **variables: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        settings = _settings(private_rabbitmq, queues) | variables
        with (tmp_path / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [*PYTHON, "-m", "example_app.worker"],
                cwd=ROOT,
                env=environment(tmp_path, **settings),
                stderr=log,
            )
        try:
            yield worker
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(DEADLINE) == 0, _worker_log(tmp_path)
        finally:
            worker.kill()
            worker.wait()

    return started


def test_an_order_arrives_with_its_id(
    visitor: FlaskClient, private_rabbitmq: RabbitMQNode
) -> None:
    assert order(visitor) == 201

    wait_for(lambda: books(visitor) == {"confirmed": 1}, "the order is confirmed")
    (message,) = private_rabbitmq.get_all("orders.created")
    assert message.id == state(visitor)["events"][0]["id"]
    assert message.json()["total"] == "9.50"


def test_failed_orders_leave_nothing_in_the_queues(
    visitor: FlaskClient, private_rabbitmq: RabbitMQNode
) -> None:
    visitor.post("/orders/half-way", data={"product": 1})
    order(visitor, quantity=99)
    order(visitor)

    wait_for(lambda: books(visitor).get("confirmed") == 1, "the good one is confirmed")
    assert books(visitor) == {"confirmed": 1, "discarded": 2}
    assert private_rabbitmq.count("orders.created") == 1


def test_500_events_arrive_in_order(
    visitor: FlaskClient, private_rabbitmq: RabbitMQNode
) -> None:
    visitor.post("/orders/gift-cards")

    wait_for(lambda: books(visitor) == {"confirmed": 500}, "all are confirmed")
    mails = private_rabbitmq.get_all("mail.send")
    assert [mail.json()["card"] for mail in mails] == list(range(1, 500))


def test_the_worker_requests_an_invoice_for_each_order(
    visitor: FlaskClient, private_rabbitmq: RabbitMQNode, start_worker: StartWorker
) -> None:
    with start_worker():
        order(visitor)
        order(visitor)
        wait_for(lambda: _invoices(private_rabbitmq) == 2, "both are requested")

    invoices = private_rabbitmq.get_all("invoices.requested")
    assert [invoice.json()["order_id"] for invoice in invoices] == [1, 2]
    orders = state(visitor)["events"][::-1]
    for invoice, created in zip(invoices, orders, strict=True):
        assert invoice.properties.headers
        assert invoice.properties.headers["caused-by"] == created["id"]
    # It had acknowledged them: nothing was requeued when it ended.
    assert private_rabbitmq.count("orders.created") == 0


def test_the_worker_requests_one_invoice_for_two_copies(
    private_rabbitmq: RabbitMQNode, start_worker: StartWorker, tmp_path: Path
) -> None:
    private_rabbitmq.declare("orders.created")
    with private_rabbitmq.channel() as channel:
        for id in ("twin", "twin", "another"):
            properties = BasicProperties(message_id=id, delivery_mode=2)
            channel.basic_publish("", "orders.created", ORDER, properties)

    with start_worker():
        wait_for(lambda: _invoices(private_rabbitmq) == 2, "both are requested")

    assert "message twin was handled before" in _worker_log(tmp_path)
    assert private_rabbitmq.count("orders.created") == 0


def test_the_worker_outlives_the_broker(
    visitor: FlaskClient,
    private_rabbitmq: RabbitMQNode,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    private_rabbitmq.declare("invoices.requested")
    invoices: list[Message] = []

    def requested() -> set[int]:
        invoices.extend(private_rabbitmq.get_all("invoices.requested"))
        return {invoice.json()["order_id"] for invoice in invoices}

    with start_worker():
        order(visitor)
        wait_for(
            lambda: "invoice requested" in _worker_log(tmp_path), "the first is done"
        )
        # Its invoice may be on its way: if its confirm is lost, a copy is sent.
        private_rabbitmq.stop_app()
        order(visitor)
        private_rabbitmq.start_app()
        wait_for(lambda: requested() == {1, 2}, "both are requested")

    originals = [invoice for invoice in invoices if not _is_marked(invoice)]
    assert len({invoice.json()["order_id"] for invoice in originals}) == len(originals)
    wait_for(lambda: books(visitor) == {"confirmed": 2}, "the shop has recovered too")


def test_a_worker_sends_what_one_that_was_killed_has_committed(
    private_rabbitmq: RabbitMQNode, start_worker: StartWorker, tmp_path: Path
) -> None:
    full: dict[str, str | int] = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queues = {"orders.created": {}, "invoices.requested": full}
    private_rabbitmq.declare("orders.created")
    private_rabbitmq.declare("invoices.requested", **full)
    private_rabbitmq.publish("invoices.requested", b"fills the queue")
    private_rabbitmq.publish("orders.created", ORDER)

    # Otherwise, a row's lease must not run out while the machine is busy.
    with start_worker(queues, FLASK_EVENTCOLLECTOR_OUTBOX_LEASE="1") as worker:
        wait_for(lambda: "invoice requested" in _worker_log(tmp_path), "it is handled")
        worker.kill()
        worker.wait()
    assert private_rabbitmq.count("orders.created") == 0
    private_rabbitmq.get_all("invoices.requested")
    wait_for(lambda: _has_lease_run_out(tmp_path), "nobody holds its row")

    with start_worker(queues):
        wait_for(lambda: _invoices(private_rabbitmq, **full) == 1, "it is requested")

    (invoice,) = private_rabbitmq.get_all("invoices.requested")
    assert invoice.json() == {"invoice_id": 1, "order_id": 7, "total": "1.00"}
    assert invoice.properties.headers
    assert invoice.properties.headers["x-possible-duplicate"] is True


def test_the_worker_refuses_what_is_no_order(
    private_rabbitmq: RabbitMQNode, start_worker: StartWorker
) -> None:
    private_rabbitmq.declare("orders.created")
    private_rabbitmq.publish("orders.created", b"no order", b'{"order_id": 1}')
    private_rabbitmq.publish("orders.created", ORDER)

    with start_worker():
        wait_for(lambda: _invoices(private_rabbitmq) == 1, "the good one is requested")

    assert private_rabbitmq.count("orders.created") == 0


def test_the_nightly_script_ends_after_its_report_has_arrived(
    private_rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    script = run_python(
        tmp_path, "-m", "example_app.nightly", **_settings(private_rabbitmq)
    )

    assert script.returncode == 0, script.stderr
    (report,) = private_rabbitmq.get_all("stock.counted")
    assert report.json()["stock"]["Coffee mug"] == 40


def test_a_command_ends_after_its_events_have_arrived(
    private_rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    flask = ("-m", "flask", "--app", "example_app")
    command = run_python(
        tmp_path, *flask, "shop", "restock", **_settings(private_rabbitmq)
    )

    assert command.returncode == 0, command.stderr
    assert private_rabbitmq.count("stock.replenished") == 3


def test_the_console_sends_at_once(
    private_rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    flask = ("-m", "flask", "--app", "example_app")
    typed = """
event = events.enqueue_event({"sku": 1}, "stock.counted")
print("confirmed:", events.stats().confirmed)
"""
    # The default is short, and this machine may be busy.
    patient = {"FLASK_EVENTCOLLECTOR_CONFIRM_TIMEOUT": "20"}
    settings = _settings(private_rabbitmq) | patient
    console = run_python(tmp_path, *flask, "shell", typed=typed, **settings)

    assert "confirmed: 1" in console.stdout, console.stderr
    assert private_rabbitmq.count("stock.counted") == 1


def _settings(node: RabbitMQNode, queues: Queues = QUEUES) -> dict[str, str]:
    return {
        URL_VARIABLE: node.url,
        "FLASK_EVENTCOLLECTOR_QUEUES": json.dumps(queues),
        "FLASK_EVENTCOLLECTOR_RETRY_DELAY": "1",
        "FLASK_EVENTCOLLECTOR_RETRY_MAX_DELAY": "1",
    }


def _invoices(node: RabbitMQNode, **arguments: str | int) -> int:
    node.declare("invoices.requested", **arguments)
    return node.count("invoices.requested")


def _is_marked(message: Message) -> bool:
    return "x-possible-duplicate" in (message.properties.headers or {})


def _has_lease_run_out(folder: Path) -> bool:
    now = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    rows = f"SELECT due <= {now} FROM eventcollector_outbox"
    with closing(sqlite3.connect(folder / "shop.sqlite3")) as database:
        return database.execute(rows).fetchall() == [(True,)]


def _worker_log(folder: Path) -> str:
    return (folder / "worker.log").read_text()
