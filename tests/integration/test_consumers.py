"""Consumers that handle each message once, on RabbitMQ and PostgreSQL."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from flask_eventcollector import received
from tests.consuming.support import Consumer, bookings, consumer_on, seen
from tests.databases import PostgreSQL
from tests.helpers import DEADLINE, unmeasured
from tests.rabbitmq import RabbitMQNode

ROOT = Path(__file__).parents[2]
MESSAGES, ROUNDS = 200, 3

#: Handles some messages, and is killed at the last one before or after its commit.
WORKER = """
import itertools, os, signal, sys
import pika
from tests.consuming.support import consumer_on
from tests.integration.test_consumers import handle

database, broker, queue, number, when = sys.argv[1:]
countdown = itertools.count(int(number), -1)

def die(now):
    if now == when and not next(countdown):
        os.kill(os.getpid(), signal.SIGKILL)

with consumer_on(database) as consumer:
    channel = pika.BlockingConnection(pika.URLParameters(broker)).channel()
    channel.basic_qos(prefetch_count=10)
    for method, properties, _ in channel.consume(queue):
        handle(consumer, channel, method.delivery_tag, properties, die)
"""


def handle(
    consumer: Consumer,
    channel: BlockingChannel,
    tag: int | None,
    properties: pika.BasicProperties,
    tell: Callable[[str], object] = lambda when: None,
) -> None:
    """Do the work, commit it, then acknowledge."""
    with consumer.session() as session:
        with consumer.once(session, received(properties).id) as first:
            if first:
                session.execute(bookings.insert())
        tell("before")
        session.commit()
        tell("after")
    channel.basic_ack(tag or 0)


def publish_twice(channel: BlockingChannel, queue: str) -> None:
    """Each message, and its copy right behind it, so that two workers get them."""
    for number in range(MESSAGES):
        for headers in ({}, {"x-possible-duplicate": True}):
            properties = pika.BasicProperties(message_id=str(number), headers=headers)
            channel.basic_publish("", queue, b"{}", properties)


def run_until_killed(*arguments: str) -> None:
    """Two workers at the same time."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments, *end],
            cwd=ROOT,
            env=unmeasured(),
        )
        for end in (("20", "before"), ("25", "after"))
    ]
    for worker in workers:
        with worker:
            assert worker.wait(DEADLINE) == -signal.SIGKILL


def drain(consumer: Consumer, channel: BlockingChannel, queue: str) -> None:
    """Handle what is left, with the copies of what the workers have handled."""
    for method, properties, _ in channel.consume(queue, inactivity_timeout=1):
        if method is None or properties is None:
            return
        handle(consumer, channel, method.delivery_tag, properties)


@pytest.mark.slow
def test_with_workers_that_are_killed_each_message_is_handled_once(
    rabbitmq: RabbitMQNode, postgresql: PostgreSQL, make_queue: Callable[..., str]
) -> None:
    url, queue = postgresql.new_database(), make_queue()
    with consumer_on(url) as consumer, rabbitmq.channel() as channel:
        publish_twice(channel, queue)
        for _ in range(ROUNDS):
            run_until_killed(url, rabbitmq.url, queue)
        assert 0 < consumer.count() < MESSAGES
        drain(consumer, channel, queue)

        assert consumer.count() == consumer.count(seen) == MESSAGES
