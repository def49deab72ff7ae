"""A broker that becomes unreachable under load, in all ways."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from flask import Flask

from flask_eventcollector import BrokerState, EventCollector, PublishResult
from flask_eventcollector.delivery.entries import Waiter
from flask_eventcollector.delivery.ledger import Ledger
from tests.integration import load
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq

REQUESTS = 500
#: How many requests are sent before the outage, or as it begins.
BEFORE = 400
EVENTS = REQUESTS * load.EVENTS_PER_REQUEST


class Shop(NamedTuple):
    """The app, with the objects that the test inspects."""

    app: Flask
    events: EventCollector
    queue: str
    requests: load.Load
    duplicates: load.Duplicates


@pytest.fixture
def shop(private_rabbitmq: RabbitMQNode) -> Iterator[Shop]:
    queue = load.fresh_queue()
    app, events = load.make_app(private_rabbitmq.url, queue)
    # The first request connects; it isn't part of the load.
    events.enqueue_event({"order": -1, "place": 0}, queue)
    assert events.publish(timeout=20).complete
    # RabbitMQ 3.10 writes a new queue to disk only after a second, unless requested.
    private_rabbitmq.declare(queue)
    private_rabbitmq.get_all(queue)
    requests = load.Load(app, pause=0.02)
    yield Shop(app, events, queue, requests, load.Duplicates(app))
    events.close(5)


def run_with(shop: Shop, away: Callable[[], None]) -> None:
    """Put the shop under load, and cause an outage in the middle of it."""
    gone = threading.Event()

    def paths() -> Iterator[str]:
        yield from load.orders(range(BEFORE))
        # Even if the broker or the machine is slow, the others see the outage.
        gone.wait(60)
        yield from load.orders(range(BEFORE, REQUESTS))

    with shop.requests.running(paths()):
        load.wait_for(lambda: len(shop.requests.statuses) > REQUESTS // 10)
        away()
        gone.set()


def assert_every_request_was_quick(shop: Shop) -> None:
    assert shop.requests.statuses == [201] * REQUESTS
    shop.requests.assert_quick()


def assert_everything_arrives(shop: Shop, broker: RabbitMQNode) -> None:
    assert shop.events.flush(60)
    load.assert_all_confirmed(shop.events.stats(), EVENTS + 1)
    messages = broker.get_all(shop.queue)
    assert load.places_by_order(messages) == load.complete(range(REQUESTS))
    # Only events with an unknown outcome arrived twice, and the second copy is marked.
    assert load.marked(messages) == shop.duplicates.possible
    assert set(load.ids(load.second_copies(messages))) <= load.marked(messages)


def test_a_broker_that_stops_and_starts_costs_nothing(
    shop: Shop, private_rabbitmq: RabbitMQNode
) -> None:
    run_with(shop, private_rabbitmq.stop_app)
    load.wait_for(lambda: shop.events.stats().retained > 0)

    private_rabbitmq.start_app()

    assert_every_request_was_quick(shop)
    assert_everything_arrives(shop, private_rabbitmq)


def test_a_broker_that_is_killed_costs_nothing(
    shop: Shop, private_rabbitmq: RabbitMQNode
) -> None:
    run_with(shop, private_rabbitmq.kill)
    load.wait_for(lambda: shop.events.stats().broker is BrokerState.DOWN)

    private_rabbitmq.start()

    assert_every_request_was_quick(shop)
    assert_everything_arrives(shop, private_rabbitmq)


def test_a_frozen_broker_delays_no_request_and_gets_nothing_twice(
    shop: Shop, private_rabbitmq: RabbitMQNode
) -> None:
    run_with(shop, private_rabbitmq.freeze)
    load.wait_for(lambda: shop.events.stats().broker is BrokerState.STALLED)

    private_rabbitmq.thaw()

    assert_every_request_was_quick(shop)
    assert_everything_arrives(shop, private_rabbitmq)
    assert not shop.duplicates.possible


def test_while_it_is_frozen_only_the_first_waits_run_out(
    shop: Shop, private_rabbitmq: RabbitMQNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[bool] = []

    def noting(ledger: Ledger, waiter: Waiter, *, ran_out: bool) -> PublishResult:
        waits.append(ran_out)
        return stop_waiting(ledger, waiter, ran_out=ran_out)

    stop_waiting = Ledger.stop_waiting
    monkeypatch.setattr(Ledger, "stop_waiting", noting)
    private_rabbitmq.freeze()

    shop.requests.run(load.orders(range(100)))

    assert len(waits) == 100
    assert 1 <= waits.count(True) <= shop.requests.threads
    private_rabbitmq.thaw()
    assert shop.events.flush(30)


def test_an_alarm_delays_no_request_and_loses_nothing(
    shop: Shop, private_rabbitmq: RabbitMQNode
) -> None:
    run_with(shop, lambda: private_rabbitmq.memory_alarm(True))
    load.wait_for(lambda: shop.events.stats().broker is BrokerState.BLOCKED)
    assert shop.events.stats().broker_error == "low on memory"

    private_rabbitmq.memory_alarm(False)

    assert_every_request_was_quick(shop)
    assert_everything_arrives(shop, private_rabbitmq)
    assert not shop.duplicates.possible


def test_connections_that_the_broker_closes_are_made_again(
    shop: Shop, private_rabbitmq: RabbitMQNode
) -> None:
    with shop.requests.running(load.orders(range(REQUESTS))):
        for tenth in (1, 4, 7):
            load.wait_for(lambda t=tenth: len(shop.requests.statuses) > t * 50)  # type: ignore[misc]
            private_rabbitmq.close_all_connections()

    assert_every_request_was_quick(shop)
    assert_everything_arrives(shop, private_rabbitmq)


def test_a_broker_that_is_unreachable_at_the_start_gets_everything_later(
    private_rabbitmq: RabbitMQNode,
) -> None:
    queue = load.fresh_queue()
    app, events = load.make_app(private_rabbitmq.url, queue)
    requests = load.Load(app)
    private_rabbitmq.kill()

    # So many that a moment in which the machine stalls holds up few of them.
    requests.run(load.orders(range(REQUESTS)))

    requests.assert_quick()
    assert events.stats().retained == EVENTS
    private_rabbitmq.start()
    assert events.flush(60)
    messages = private_rabbitmq.get_all(queue)
    assert load.places_by_order(messages) == load.complete(range(REQUESTS))
    assert not load.marked(messages)
    events.close(5)
