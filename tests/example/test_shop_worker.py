"""The worker: it acknowledges an order after the transaction that handles it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest
from flask import Flask
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

from example_app.broker import embedded_broker
from example_app.publishing import events
from example_app.worker import URL_VARIABLE, Worker
from flask_eventcollector.testing import Captured, FaultInjector

from .conftest import OpenShop
from .support import run_python

MESSAGE = BasicProperties(message_id="message-1")
ORDER = json.dumps({"order_id": 7, "total": "9.50"}).encode()
#: With a database that reports at once that it is locked.
SETTINGS: dict[str, Any] = {
    "EVENTCOLLECTOR_OUTBOX": True,
    "SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": {"timeout": 0}},
}


@pytest.fixture
def shop(open_shop: OpenShop) -> Iterator[Flask]:
    """Return a shop with an outbox, as the worker's is."""
    with open_shop(**SETTINGS) as app:
        yield app


@pytest.fixture
def worker(shop: Flask) -> Iterator[Worker]:
    """Return a worker in its app context, with a short pause."""
    with shop.app_context():
        yield Worker(shop, pause=0)


@pytest.fixture
def channel() -> Mock:
    """Return a channel that records its calls."""
    channel: Mock = create_autospec(BlockingChannel, instance=True)
    channel.connection = Mock()
    return channel


def committed(folder: Path, table: str) -> int:
    """How many rows of a table are committed, as another process sees it."""
    with closing(sqlite3.connect(folder / "shop.sqlite3")) as database:
        (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)


def test_an_order_is_acknowledged_once_all_about_it_is_committed(
    worker: Worker, channel: Mock, tmp_path: Path, captured_events: Captured
) -> None:
    found: list[tuple[int, int]] = []

    def look(_tag: int) -> None:
        counts = (committed(tmp_path, t) for t in ("invoice", "eventcollector_seen"))
        found.append((*counts,))  # type: ignore[arg-type]

    channel.basic_ack.side_effect = look
    worker.handle(channel, 1, MESSAGE, ORDER)

    channel.basic_ack.assert_called_once_with(1)
    assert found == [(1, 1)]
    captured_events.assert_published(
        "invoices.requested",
        {"invoice_id": 1, "order_id": 7, "total": "9.50"},
        headers={"caused-by": "message-1"},
        exact=True,
    )


def test_a_twin_is_acknowledged_and_requests_nothing(
    worker: Worker,
    channel: Mock,
    captured_events: Captured,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO", "example_app.worker"):
        worker.handle(channel, 1, MESSAGE, ORDER)
        worker.handle(channel, 2, MESSAGE, ORDER)

    assert [call.args for call in channel.basic_ack.call_args_list] == [(1,), (2,)]
    captured_events.assert_published("invoices.requested", times=1)
    assert "message message-1 was handled before" in caplog.text


def test_an_order_is_acknowledged_although_the_broker_takes_nothing(
    open_shop: OpenShop, channel: Mock, tmp_path: Path
) -> None:
    with open_shop(**SETTINGS, EVENTCOLLECTOR_TESTING_BROKER=True) as shop:
        with shop.app_context():
            broker = embedded_broker()
        assert broker
        FaultInjector.of(broker).go_down()

        Worker(shop, pause=0).handle(channel, 1, MESSAGE, ORDER)

        channel.basic_ack.assert_called_once_with(1)
        assert committed(tmp_path, "eventcollector_outbox") == 1


def test_an_order_goes_back_while_the_database_is_locked(
    worker: Worker, channel: Mock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.sqlite3")) as another:
        another.execute("BEGIN IMMEDIATE")
        worker.handle(channel, 1, MESSAGE, ORDER)

    channel.basic_ack.assert_not_called()
    channel.basic_nack.assert_called_once_with(1, requeue=True)
    assert "goes back to its queue: database is locked" in caplog.text
    assert events.stats().enqueued == 0
    worker.handle(channel, 2, MESSAGE, ORDER)
    channel.basic_ack.assert_called_once_with(2)


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
