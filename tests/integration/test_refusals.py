"""Events that RabbitMQ refuses, together with events that it accepts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import pytest
from flask import Flask

from flask_eventcollector import (
    EventCollector,
    Outcome,
    PublishResult,
    events_dead,
    publish_failed,
)
from tests.helpers import DEADLINE
from tests.integration import load
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq


class Shop(NamedTuple):
    """The app, and the signals that it sent."""

    app: Flask
    events: EventCollector
    queue: str
    signalled: list[tuple[str, dict[str, Any]]]


def make_shop(node: RabbitMQNode, **settings: Any) -> Shop:
    queue = load.fresh_queue()
    app, events = load.make_app(node.url, queue, **settings)
    signalled: list[tuple[str, dict[str, Any]]] = []

    def failed(app: Flask, **about: Any) -> None:
        signalled.append(("failed", about))

    def dead(app: Flask, **about: Any) -> None:
        signalled.append(("dead", about))

    publish_failed.connect(failed, app, weak=False)
    events_dead.connect(dead, app, weak=False)
    return Shop(app, events, queue, signalled)


@contextmanager
def opened(node: RabbitMQNode, **settings: Any) -> Iterator[Shop]:
    shop = make_shop(node, **settings)
    try:
        yield shop
    finally:
        shop.events.close(5)
        node.delete(shop.queue)


@pytest.fixture
def shop(rabbitmq: RabbitMQNode) -> Iterator[Shop]:
    """A shop that retries refused events soon, and never gives up."""
    # A confirm takes milliseconds, but the machine may be busy.
    quick = {"RETRY_DELAY": 0.1, "RETRY_MAX_DELAY": 0.3, "CONFIRM_TIMEOUT": 10}
    with opened(rabbitmq, **quick) as shop:
        yield shop


@pytest.fixture
def calm_shop(rabbitmq: RabbitMQNode) -> Iterator[Shop]:
    """A shop that retries nothing during the test, except by a flush."""
    with opened(rabbitmq, RETRY_DELAY=300, RETRY_MAX_DELAY=300) as shop:
        yield shop


def test_a_missing_queue_is_named_in_result_signal_and_log(
    calm_shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop = calm_shop
    event = shop.events.enqueue_event(1, "no.such.queue")

    result = shop.events.publish(timeout=10)

    assert result == PublishResult(retained=1)
    kind, about = shop.signalled[0]
    assert (kind, about["outcome"]) == ("failed", Outcome.RETURNED)
    assert about["events"] == (event,)
    assert "no.such.queue" in about["error"]
    assert "no.such.queue" in caplog.text


@pytest.fixture
def slowing_shop(rabbitmq: RabbitMQNode) -> Iterator[Shop]:
    """A shop that retries refused events soon at first, and later seldom."""
    slower = {"RETRY_DELAY": 0.1, "RETRY_MAX_DELAY": 20, "CONFIRM_TIMEOUT": DEADLINE}
    with opened(rabbitmq, **slower) as shop:
        yield shop


def test_a_missing_queue_does_not_delay_another(
    slowing_shop: Shop, rabbitmq: RabbitMQNode
) -> None:
    shop, seconds = slowing_shop, []
    with shop.app.app_context():
        for number in range(200):
            shop.events.enqueue_event(number, "no.such.queue")
            shop.events.enqueue_event(number, shop.queue)
            began = time.perf_counter()
            # The event for the existing queue is confirmed within the call, each time.
            assert shop.events.publish().confirmed == 1
            seconds.append(time.perf_counter() - began)

    # Whoever waited for the missing queue's next retry would soon wait for seconds.
    assert median(seconds) < 1
    arrived = [message.json() for message in rabbitmq.get_all(shop.queue)]
    assert arrived == list(range(200))


@pytest.fixture
def strict_shop(rabbitmq: RabbitMQNode) -> Iterator[Shop]:
    """A shop that dead-letters events soon."""
    strict = {"RETRY_DELAY": 0.1, "RETRY_MAX_DELAY": 0.3, "DEAD_AFTER": 0.5}
    with opened(rabbitmq, **strict) as shop:
        yield shop


def test_what_is_refused_for_long_is_dead_and_can_be_retried(
    strict_shop: Shop, rabbitmq: RabbitMQNode
) -> None:
    shop = strict_shop
    late = load.fresh_queue()
    event = shop.events.enqueue_event("late", late)
    shop.events.publish(timeout=10)

    load.wait_for(lambda: shop.events.stats().dead == 1)

    [dead] = shop.events.dead()
    assert dead.event is event
    assert dead.attempts > 1
    assert late in dead.reason
    load.wait_for(lambda: shop.signalled[-1][0] == "dead")
    rabbitmq.declare(late)
    assert shop.events.retry() == 1
    assert shop.events.flush(10)
    assert load.ids(rabbitmq.get_all(late)) == [event.id]
    rabbitmq.delete(late)


def test_a_queue_that_is_declared_late_gets_its_events_in_order(
    shop: Shop, rabbitmq: RabbitMQNode
) -> None:
    late = load.fresh_queue()
    for number in range(100):
        shop.events.enqueue_event(number, late)
        shop.events.publish()

    rabbitmq.declare(late)

    load.wait_for(lambda: shop.events.stats().retained == 0)
    load.wait_for(lambda: shop.events.stats().confirmed == 100)
    assert [m.json() for m in rabbitmq.get_all(late)] == list(range(100))
    rabbitmq.delete(late)


def test_a_full_queue_gets_the_rest_when_there_is_room(
    shop: Shop, rabbitmq: RabbitMQNode
) -> None:
    full = load.fresh_queue()
    limits: dict[str, str | int] = {"x-max-length": 2, "x-overflow": "reject-publish"}
    rabbitmq.declare(full, **limits)
    for number in range(4):
        shop.events.enqueue_event(number, full)
    result = shop.events.publish(timeout=10)
    assert result.confirmed == 2
    assert shop.signalled[0][1]["outcome"] is Outcome.NACKED

    first = rabbitmq.get_all(full)
    load.wait_for(lambda: shop.events.stats().confirmed == 4)

    arrived = [message.json() for message in first + rabbitmq.get_all(full)]
    assert sorted(arrived) == [0, 1, 2, 3]
    rabbitmq.delete(full)


def test_a_missing_exchange_is_refused_and_recovers(
    calm_shop: Shop, rabbitmq: RabbitMQNode
) -> None:
    shop = calm_shop
    exchange = f"{shop.queue}.exchange"
    shop.events.enqueue_event("first", shop.queue, exchange=exchange)
    shop.events.enqueue_event("other", shop.queue)

    result = shop.events.publish(timeout=10)

    assert result == PublishResult(confirmed=1, retained=1)
    assert exchange in shop.signalled[0][1]["error"]
    with rabbitmq.channel() as channel:
        channel.exchange_declare(exchange, "direct")
        channel.queue_bind(shop.queue, exchange, shop.queue)
    assert shop.events.flush(10)
    arrived = [message.json() for message in rabbitmq.get_all(shop.queue)]
    assert sorted(arrived) == ["first", "other"]
    with rabbitmq.channel() as channel:
        channel.exchange_delete(exchange)


def test_an_exchange_that_is_deleted_under_load_disturbs_no_other(
    shop: Shop, rabbitmq: RabbitMQNode
) -> None:
    exchange = f"{shop.queue}.exchange"
    rabbitmq.declare(shop.queue)
    with rabbitmq.channel() as channel:
        channel.exchange_declare(exchange, "fanout")
        channel.queue_bind(shop.queue, exchange)
    shop.events.enqueue_event("before", shop.queue, exchange=exchange)
    assert shop.events.publish(timeout=10).complete

    with rabbitmq.channel() as channel:
        channel.exchange_delete(exchange)
    for number in range(50):
        shop.events.enqueue_event(number, shop.queue, exchange=exchange)
        shop.events.enqueue_event(number, shop.queue)
        assert shop.events.publish().confirmed == 1

    outcomes = {about["outcome"] for kind, about in shop.signalled if kind == "failed"}
    assert Outcome.RETURNED in outcomes


def limit_messages(node: RabbitMQNode, size: int) -> None:
    """Set the broker's limit in bytes; RabbitMQ 4 also stores it in a second place."""
    node.eval(
        f"application:set_env(rabbit, max_message_size, {size}),"
        f" persistent_term:put(max_message_size, {size})."
    )


def test_an_event_over_the_brokers_limit_is_dead_at_once_and_alone(
    private_rabbitmq: RabbitMQNode,
) -> None:
    limit_messages(private_rabbitmq, 2000)
    shop = make_shop(private_rabbitmq)
    try:
        for number in range(100):
            text = "x" * 5000 if number == 50 else f"{number}"
            shop.events.enqueue_event(text, shop.queue)

        result = shop.events.publish(timeout=20)
        shop.events.flush(20)

        assert result.dead == 1
        stats = shop.events.stats()
        assert (stats.confirmed, stats.dead, stats.retained) == (99, 1, 0)
        [dead] = shop.events.dead()
        assert "2000" in dead.reason
        # Once the limit is known, the next one is dead-lettered without being sent.
        shop.events.enqueue_event("y" * 5000, shop.queue)
        assert shop.events.publish(timeout=10).dead == 1
        assert shop.events.stats().broker_error == ""
    finally:
        limit_messages(private_rabbitmq, 16 * 1024 * 1024)
        shop.events.close(5)


def test_a_queue_that_exists_with_other_arguments_is_reported_and_used(
    rabbitmq: RabbitMQNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "flask_eventcollector")
    queue = load.fresh_queue()
    rabbitmq.declare(queue, **{"x-max-length": 10})
    _, events = load.make_app(rabbitmq.url, queue)
    events.enqueue_event(1, queue)

    result = events.publish(timeout=10)

    assert result.complete
    assert "x-max-length" in events.stats().broker_error
    load.wait_for(lambda: queue in caplog.text)
    events.close(5)
    rabbitmq.delete(queue)
