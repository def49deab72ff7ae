"""An exchange that returns an event, but delivers it nevertheless."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flask_eventcollector import EventCollector, Outcome, publish_failed
from tests.helpers import DEADLINE, Recorder, Shop, open_shop, wait_until
from tests.integration import load
from tests.rabbitmq import RabbitMQNode

from .fake_broker import FakeBroker

QUICK = {"RETRY_DELAY": 0.02, "RETRY_MAX_DELAY": 0.05}
COPIES = 4


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """It delivers the messages that it returns, so each message counts."""
    with FakeBroker(lambda _: "return") as broker:
        yield broker


@contextmanager
def shop_at(broker: FakeBroker, **settings: Any) -> Iterator[Shop]:
    with open_shop(
        BROKER_URL=broker.url, TESTING_BROKER=True, **QUICK, **settings
    ) as shop:
        yield shop


def remind(shop: Shop, exchange: str) -> None:
    shop.events.enqueue_event("reminder", "q", exchange=exchange)


@pytest.mark.parametrize("options", [{}, {"shop": {"type": "x-delayed-message"}}])
def test_its_second_copies_are_marked(
    broker: FakeBroker, options: dict[str, Any]
) -> None:
    with shop_at(broker, EXCHANGES=options) as shop:
        remind(shop, "shop")
        shop.events.publish()
        wait_until(lambda: len(broker.messages) >= COPIES, "several copies")

        marks = [message.is_marked for message in broker.messages]

    assert marks == [False] + [True] * (len(marks) - 1)
    assert len({message.properties.message_id for message in broker.messages}) == 1


@pytest.mark.parametrize(
    ("exchange", "options"),
    [("", {}), ("amq.topic", {}), ("shop", {"shop": {"type": "topic"}})],
)
def test_what_a_plain_exchange_returns_has_no_second_copy(
    broker: FakeBroker, exchange: str, options: dict[str, Any]
) -> None:
    with shop_at(broker, EXCHANGES=options) as shop:
        remind(shop, exchange)
        shop.events.publish()
        wait_until(lambda: len(broker.messages) >= COPIES, "several attempts")
        assert not any(message.is_marked for message in broker.messages)


def test_without_mandatory_it_gets_one_copy_and_confirms_it(broker: FakeBroker) -> None:
    settings = {"EXCHANGES": {"shop": {"mandatory": False}}}
    with shop_at(broker, **settings) as shop, Recorder(shop) as heard:
        remind(shop, "shop")
        assert shop.events.publish(timeout=DEADLINE).complete

        (message,) = broker.messages
        assert not message.mandatory
        assert not message.is_marked
        assert heard.names() == ["event_enqueued", "events_published"]


def test_other_exchanges_stay_mandatory(broker: FakeBroker) -> None:
    with shop_at(broker, EXCHANGES={"shop": {"mandatory": False}}) as shop:
        remind(shop, "other")
        shop.events.publish()
        wait_until(lambda: broker.messages, "it is sent")
        assert broker.messages[0].mandatory


# A real one: it keeps what it returns, and delivers it to the next queue bound to it.


@pytest.fixture
def history(private_rabbitmq: RabbitMQNode) -> str:
    """An exchange of RabbitMQ's own plugin "recent history"."""
    enabled = private_rabbitmq.folder / "enabled_plugins"
    enabled.write_text("[rabbitmq_recent_history_exchange].")
    answer = private_rabbitmq.eval(f'rabbit_plugins:ensure("{enabled}").')
    if "ok" not in answer:
        pytest.skip("this RabbitMQ has no recent history exchange")
    with private_rabbitmq.channel() as channel:
        channel.exchange_declare("history", "x-recent-history", durable=True)
    return "history"


@contextmanager
def collecting(node: RabbitMQNode, **settings: Any) -> Iterator[EventCollector]:
    app, events = load.make_app(node.url, "q", **QUICK, **settings)
    with app.app_context():
        try:
            yield events
        finally:
            events.close(0)


def bind(node: RabbitMQNode, exchange: str) -> None:
    with node.channel() as channel:
        channel.queue_bind("q", exchange, "q")


def test_a_real_exchanges_second_copies_are_marked(
    private_rabbitmq: RabbitMQNode, history: str
) -> None:
    attempts: list[int] = []

    def failed(app: Any, attempt: int, outcome: Any, **about: Any) -> None:
        assert outcome is Outcome.RETURNED
        attempts.append(attempt)

    with collecting(private_rabbitmq) as events, publish_failed.connected_to(failed):
        events.enqueue_event("reminder", "q", exchange=history)
        events.publish()
        wait_until(lambda: len(attempts) >= COPIES, "several attempts")
        bind(private_rabbitmq, history)
        assert events.flush(DEADLINE)

        copies = private_rabbitmq.get_all("q")

    assert len(copies) > COPIES
    assert len({copy.id for copy in copies}) == 1
    assert sum(not load.marked([copy]) for copy in copies) == 1


def test_a_real_exchange_without_mandatory_gets_one_copy(
    private_rabbitmq: RabbitMQNode, history: str
) -> None:
    settings = {"EXCHANGES": {history: {"mandatory": False}}}
    with collecting(private_rabbitmq, **settings) as events:
        events.enqueue_event("reminder", "q", exchange=history)
        assert events.publish(timeout=DEADLINE).complete
        bind(private_rabbitmq, history)

        copies = private_rabbitmq.get_all("q")

    assert [load.marked([copy]) for copy in copies] == [set()]


def test_rabbitmq_confirms_what_reaches_no_queue_without_mandatory(
    private_rabbitmq: RabbitMQNode,
) -> None:
    settings = {"EXCHANGES": {"amq.direct": {"mandatory": False}}}
    with collecting(private_rabbitmq, **settings) as events:
        events.enqueue_event("lost", "nobody", exchange="amq.direct")
        assert events.publish(timeout=DEADLINE).complete
        assert private_rabbitmq.count("q") == 0
