"""Headers that tell which events were published together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from flask_eventcollector.messages.amqp_fields import (
    BATCH_HEADERS_BYTES,
    copy_headers,
)
from tests.helpers import DEADLINE, Shop, open_shop
from tests.outbox.test_store import OutboxShop
from tests.transactions.support import Order, url_in


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop(BATCH_HEADERS=True) as shop:
        yield shop


def headers(shop: Shop, queue: str = "q") -> list[Mapping[str, Any]]:
    return [event.headers for event in shop.broker.events(queue)]


def places(shop: Shop, queue: str = "q") -> list[tuple[int, int]]:
    found = headers(shop, queue)
    return [(each["x-batch-index"], each["x-batch-size"]) for each in found]


def ids(shop: Shop, *queues: str) -> list[str]:
    return [each["x-batch-id"] for queue in queues for each in headers(shop, queue)]


def test_what_is_published_together_has_one_id(shop: Shop) -> None:
    for _ in range(2):
        with shop.events.auto_publish() as block:
            block.enqueue_event(1, "q", headers={"tenant": "acme"})
            block.enqueue_event(2, "p", priority=5)
            block.enqueue_event(3, "q")
    assert places(shop, "q") == [(0, 3), (2, 3)] * 2
    assert places(shop, "p") == [(1, 3)] * 2
    assert headers(shop)[0]["tenant"] == "acme"
    assert len(set(ids(shop, "q", "p"))) == 2
    assert len(set(ids(shop, "q")[:2])) == 1
    assert shop.broker.events("p")[0].properties.priority == 5


def test_only_what_is_published_counts(shop: Shop) -> None:
    with shop.events.auto_publish() as block:
        for number in range(3):
            block.enqueue_event(number, "q", key="one")
        block.enqueue_event(4, "q")
    assert places(shop) == [(0, 2), (1, 2)]


def test_without_the_setting_there_are_none() -> None:
    with open_shop() as shop:
        with shop.events.auto_publish() as block:
            block.enqueue_event(1, "q", headers={"x-batch-id": "my own"})
        assert headers(shop) == [{"x-batch-id": "my own"}]


@pytest.mark.parametrize("name", ["x-batch-id", "x-batch-index", "x-batch-size"])
def test_the_names_are_reserved(shop: Shop, name: str) -> None:
    with pytest.raises(ValueError, match=r"is reserved: EVENTCOLLECTOR_BATCH_HEADERS"):
        shop.events.enqueue_event(1, "q", headers={name: 1})


def test_their_size_is_counted_from_the_beginning(shop: Shop) -> None:
    with shop.events.auto_publish() as block:
        event = block.enqueue_event("x", "q")
        other = block.enqueue_event("x", "q", headers={"a": 1})
    sent = shop.broker.events("q")
    sizes = [copy_headers(e.headers)[1] + len(e.body) for e in sent]
    assert sizes[0] == event.size == 3 + BATCH_HEADERS_BYTES
    # A table has a length, which is counted once.
    assert sizes[1] == other.size - 4


def test_the_flusher_s_own_events_are_a_batch_too(shop: Shop) -> None:
    with shop.events.capture() as captured:
        captured.broker_down()
        with shop.events.auto_publish() as block:
            block.enqueue_event(1, "q")
        captured.broker_up()
        captured.flush(DEADLINE)
    assert places(shop) == [(0, 1)]


def test_what_a_transaction_writes_into_the_outbox_is_a_batch(tmp_path: Path) -> None:
    shop = OutboxShop(url_in(tmp_path), BATCH_HEADERS=True)
    try:
        with shop.sessions() as session, session.begin():
            session.add(Order(sku="a"))
            session.flush()
            shop.events.enqueue_event(1, "q")
            with session.begin_nested():
                session.add(Order(sku="b"))
                session.flush()
                shop.events.enqueue_event(2, "q")
        assert shop.events.flush(DEADLINE)
        assert places(shop) == [(0, 2), (1, 2)]
        assert len(set(ids(shop, "q"))) == 1
    finally:
        shop.events.close(0)
        shop.engine.dispose()
