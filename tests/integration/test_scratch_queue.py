"""A queue that is made for one purpose, on a real broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from flask_eventcollector.brokers.rabbitmq.inspection import connecting
from flask_eventcollector.brokers.rabbitmq.logins import Logins
from flask_eventcollector.brokers.rabbitmq.scratch_queue import (
    QueueRefused,
    ScratchQueue,
)
from flask_eventcollector.config.broker_url import parse_broker_urls
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def make(rabbitmq: RabbitMQNode) -> Callable[[str], ScratchQueue]:
    urls = parse_broker_urls(rabbitmq.url, "url")
    connect = connecting(urls, 10, "test", Logins(None, None, "test"))
    return lambda name: ScratchQueue(connect, name, {"x-expires": 60_000})


@pytest.fixture
def queue(
    make: Callable[[str], ScratchQueue], queue_name: str
) -> Iterator[ScratchQueue]:
    queue = make(queue_name)
    queue.declare()
    yield queue
    queue.delete()


def test_it_reads_all_that_was_sent(
    rabbitmq: RabbitMQNode, queue: ScratchQueue
) -> None:
    rabbitmq.publish(queue.name, b"1", b"2", b"3")

    found = list(queue.take_all())

    assert [body for _, body in found] == [b"1", b"2", b"3"]
    assert all(properties.message_id for properties, _ in found)
    assert rabbitmq.count(queue.name) == 0
    assert list(queue.take_all()) == []


def test_it_knows_the_broker(queue: ScratchQueue) -> None:
    assert queue.check_broker().startswith("RabbitMQ ")


def test_what_exists_is_left_alone(
    make: Callable[[str], ScratchQueue], make_queue: Callable[..., str]
) -> None:
    other = make(make_queue())
    with pytest.raises(QueueRefused, match="exists already"):
        other.declare()
    other.delete()

    assert other._exists()


def test_one_that_is_deleted_is_gone(queue: ScratchQueue) -> None:
    queue.delete()

    assert not queue._exists()
    with pytest.raises(QueueRefused, match="no queue"):
        list(queue.take_all())


def test_what_the_broker_refuses_is_told(
    make: Callable[[str], ScratchQueue],
) -> None:
    with pytest.raises(QueueRefused, match="reserved"):
        make("amq.not-ours").declare()
