"""The thread that owns the connection: it ends on request, at any moment."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flask_eventcollector import BrokerState
from flask_eventcollector.brokers.rabbitmq import RabbitMQBroker, broker
from flask_eventcollector.brokers.rabbitmq.pacing import LEAST_PAUSE, LONGEST_PAUSE
from flask_eventcollector.brokers.rabbitmq.session import Session
from flask_eventcollector.config.broker_url import parse_broker_urls
from tests.contracts.sides import BrokerCallbacks
from tests.helpers import DEADLINE, open_shop, wait_until
from tests.isolation.fake_broker import FakeBroker, Message
from tests.parts import attributes


@pytest.fixture
def connecting() -> Iterator[RabbitMQBroker]:
    """A broker whose node accepts connections, but never responds."""
    with socket.create_server(("127.0.0.1", 0)) as node:
        url = f"amqp://guest:guest@127.0.0.1:{node.getsockname()[1]}/"
        yield RabbitMQBroker(
            parse_broker_urls(url, "the test's URL"),
            heartbeat=60,
            delay=lambda failures: 10 * DEADLINE,
            name="test",
        )


def closes_at_once(broker: RabbitMQBroker) -> bool:
    began = time.monotonic()
    closed = broker.close(DEADLINE)
    return closed and time.monotonic() - began < DEADLINE / 4


def test_it_can_be_closed_while_it_connects(connecting: RabbitMQBroker) -> None:
    connecting.start(BrokerCallbacks())

    assert closes_at_once(connecting)


def test_a_close_that_does_not_wait_ends_it_silently(
    connecting: RabbitMQBroker, caplog: pytest.LogCaptureFixture
) -> None:
    connecting.start(BrokerCallbacks())

    connecting.close(0)

    assert connecting._thread.join(DEADLINE)
    assert caplog.text == ""


def test_it_can_be_closed_while_it_begins_to_connect(
    connecting: RabbitMQBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins, closing = threading.Event(), threading.Event()

    class SlowSession(Session):
        def __init__(self, *args: Any, **options: Any) -> None:
            begins.set()
            closing.wait(DEADLINE)
            super().__init__(*args, **options)

    monkeypatch.setattr(broker, "Session", SlowSession)
    connecting.start(BrokerCallbacks())
    assert begins.wait(DEADLINE)
    # It continues while the close is waiting for it, without a notification.
    threading.Timer(0.2, closing.set).start()

    assert closes_at_once(connecting)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_something_has_ended_is_told(
    connecting: RabbitMQBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*args: object, **options: object) -> None:
        raise SystemExit

    monkeypatch.setattr(broker, "Session", end)
    connecting.start(BrokerCallbacks())
    assert connecting._thread.join(DEADLINE)
    state, problem = connecting.relay.reported
    assert (state, problem) == (
        BrokerState.DOWN,
        "its thread has ended: restart the process",
    )


class RefusingNode:
    """Counts the attempts to connect, and ends each at once."""

    def __init__(self) -> None:
        self.attempts = threading.Semaphore(0)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._refuse, daemon=True)
        self._thread.start()

    def _refuse(self) -> None:
        while True:
            connection, _ = self._server.accept()
            # Before the handshake, so the client tries once only.
            connection.close()
            self.attempts.release()


@pytest.fixture
def refused() -> Iterator[tuple[RabbitMQBroker, RefusingNode]]:
    """A broker whose node refuses it, with an hour until its next attempt."""
    node = RefusingNode()
    url = f"amqp://guest:guest@127.0.0.1:{node.port}/"
    broker = RabbitMQBroker(
        parse_broker_urls(url, "the test's URL"),
        heartbeat=60,
        delay=lambda failures: 3600,
        name="test",
    )
    broker.start(BrokerCallbacks())
    assert node.attempts.acquire(timeout=DEADLINE)
    yield broker, node
    assert broker.close(DEADLINE)


def test_something_to_send_brings_the_next_attempt_regardless_of_the_backoff(
    refused: tuple[RabbitMQBroker, RefusingNode],
) -> None:
    broker, node = refused

    for _ in range(3):
        broker.reconnect_soon()
        assert node.attempts.acquire(timeout=DEADLINE)


def test_attempts_keep_their_distance_however_much_there_is_to_send(
    refused: tuple[RabbitMQBroker, RefusingNode],
) -> None:
    busy, node = refused
    moments: list[float] = []

    while len(moments) < 3:
        busy.reconnect_soon()
        if node.attempts.acquire(timeout=0.001):
            moments.append(time.monotonic())

    # The node may notice one of them late.
    first, second, third = moments
    assert max(second - first, third - second) >= LEAST_PAUSE / 2


def test_without_anything_to_send_the_backoff_holds(
    refused: tuple[RabbitMQBroker, RefusingNode],
) -> None:
    _, node = refused

    assert not node.attempts.acquire(timeout=LONGEST_PAUSE + 0.3)


def lose_once(message: Message) -> str:
    """Lose the connection over the first copy of ``"b"``."""
    is_first = message.body == b'"b"' and not message.is_marked
    return "drop connection" if is_first else "ack"


def wait_for_line(caplog: pytest.LogCaptureFixture, word: str) -> None:
    wait_until(lambda: word in caplog.text, f"{word!r} is logged")


def test_each_connection_is_logged_with_its_node_and_without_credentials(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "flask_eventcollector")
    with (
        FakeBroker(lose_once) as node,
        open_shop(BROKER_URL=node.url, TESTING_BROKER=True) as shop,
    ):
        address = f"127.0.0.1:{node.port}"
        for payload, word in (("a", "Connected"), ("b", "Reconnected")):
            shop.enqueue(payload)
            assert shop.events.publish(timeout=DEADLINE).complete
            wait_for_line(caplog, word)

    told = [r for r in caplog.records if r.levelno == logging.INFO]
    assert [r.getMessage() for r in told] == [
        f"Connected to the broker at {address}.",
        f"Reconnected to the broker at {address}.",
    ]
    assert [attributes(r)["eventcollector_attempt"] for r in told] == [1, 2]
    assert "guest" not in caplog.text
