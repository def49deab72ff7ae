"""The worker: it acknowledges an order only when its invoice is confirmed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock, create_autospec

import pytest
from flask import Flask
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

from example_app.broker import embedded_broker
from example_app.publishing import events
from example_app.worker import URL_VARIABLE, Worker
from flask_eventcollector.testing import FaultInjector

from .support import run_python

MESSAGE = BasicProperties(message_id="message-1")
ORDER = json.dumps({"order_id": 7, "total": "9.50"}).encode()


@pytest.fixture
def worker(shop: Flask) -> Iterator[Worker]:
    """Return a worker in its app context, with short timeouts."""
    with shop.app_context():
        yield Worker(shop, publish_timeout=0.05, pause=0)


@pytest.fixture
def channel() -> Mock:
    """Return a channel that records its calls."""
    channel: Mock = create_autospec(BlockingChannel, instance=True)
    channel.connection = Mock()
    return channel


def test_an_order_is_acknowledged_when_its_invoice_is_confirmed(
    worker: Worker, channel: Mock
) -> None:
    worker.handle(channel, 1, MESSAGE, ORDER)

    channel.basic_ack.assert_called_once_with(1)
    broker = embedded_broker()
    assert broker
    (invoice,) = broker.events("invoices.requested")
    assert invoice.payload == {"order_id": 7, "total": "9.50"}
    assert invoice.headers == {"caused-by": "message-1"}


def test_an_order_goes_back_when_its_invoice_is_not_confirmed(
    worker: Worker, channel: Mock
) -> None:
    broker = embedded_broker()
    assert broker
    FaultInjector.of(broker).go_down()

    worker.handle(channel, 1, MESSAGE, ORDER)

    channel.basic_ack.assert_not_called()
    channel.basic_nack.assert_called_once_with(1, requeue=True)
    stats = events.stats()
    assert (stats.retained, stats.collected, stats.dropped) == (0, 0, 1)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[]", b"{}", b"7", b"[" * 100_000],
    ids=["empty", "cut", "no UTF-8", "list", "no fields", "number", "deep"],
)
def test_a_message_that_is_no_order_is_refused_for_good(
    worker: Worker, channel: Mock, body: bytes
) -> None:
    worker.handle(channel, 1, MESSAGE, body)

    channel.basic_reject.assert_called_once_with(1, requeue=False)
    channel.basic_ack.assert_not_called()
    assert events.stats().enqueued == 0


def test_a_message_without_an_id_is_refused_for_good(
    worker: Worker, channel: Mock, caplog: pytest.LogCaptureFixture
) -> None:
    worker.handle(channel, 1, BasicProperties(), ORDER)

    channel.basic_reject.assert_called_once_with(1, requeue=False)
    assert "has no message_id" in caplog.text


@pytest.mark.parametrize("is_marked", [False, True])
def test_the_log_says_which_order_may_be_a_copy(
    worker: Worker,
    channel: Mock,
    caplog: pytest.LogCaptureFixture,
    is_marked: bool,
) -> None:
    headers = {"x-possible-duplicate": True} if is_marked else {}
    properties = BasicProperties(message_id="message-1", headers=headers)
    with caplog.at_level("INFO", "example_app.worker"):
        worker.handle(channel, 1, properties, ORDER)

    assert ("which may be a copy" in caplog.text) is is_marked


@pytest.mark.parametrize("settings", [{}, {URL_VARIABLE: "memory://"}])
def test_without_rabbitmq_it_names_the_variable_to_set(
    settings: dict[str, str], tmp_path: Path
) -> None:
    worker = run_python(tmp_path, "-m", "example_app.worker", **settings)

    assert worker.returncode == 2
    assert f"export {URL_VARIABLE}=amqp://" in worker.stderr
