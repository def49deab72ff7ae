"""The shop is killed while the broker is unreachable, and started again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from example_app.worker import URL_VARIABLE
from tests.rabbitmq import RabbitMQNode

from .serving import ServedShop
from .support import wait_for

#: Starts a shop with this kind of backlog.
Serve = Callable[[str], ServedShop]

CARDS = 499


@pytest.fixture
def serve(tmp_path: Path, private_rabbitmq: RabbitMQNode) -> Iterator[Serve]:
    """Serve shops that publish to RabbitMQ, and stop them at the end."""
    served: list[ServedShop] = []

    def start(backlog: str) -> ServedShop:
        shop = ServedShop(
            tmp_path,
            **{URL_VARIABLE: private_rabbitmq.url},
            FLASK_EVENTCOLLECTOR_BACKLOG=backlog,
            FLASK_EVENTCOLLECTOR_SPOOL_DIR=str(tmp_path / "spool"),
            FLASK_EVENTCOLLECTOR_RETRY_MAX_DELAY="1",
        )
        served.append(shop)
        shop.start()
        return shop

    yield start
    for shop in served:
        shop.stop()


def test_what_waits_in_the_spool_arrives_after_the_next_start(
    serve: Serve, private_rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    private_rabbitmq.stop_app()
    shop = serve("spool")
    place_orders(shop)
    wait_for(lambda: is_on_disk(shop), "all is on disk")
    shop.kill()

    private_rabbitmq.start_app()
    shop.start()
    # Like any process, it adopts events of dead processes at its first request.
    wait_for(lambda: bool(shop.state()["books"]["confirmed"] == CARDS + 3), "all")

    orders = private_rabbitmq.get_all("orders.created")
    assert [order.json()["order_id"] for order in orders] == [1, 2, 3]
    mails = private_rabbitmq.get_all("mail.send")
    assert [mail.json()["card"] for mail in mails] == list(range(1, CARDS + 1))
    # It is unknown whether the dead process had sent them.
    marks = {m.properties.headers["x-possible-duplicate"] for m in [*orders, *mails]
             if m.properties.headers}  # fmt: skip
    assert marks == {True}


def test_the_page_shows_what_the_earlier_process_has_left(
    serve: Serve, private_rabbitmq: RabbitMQNode
) -> None:
    private_rabbitmq.stop_app()
    shop = serve("spool")
    place_orders(shop)
    wait_for(lambda: is_on_disk(shop), "all is on disk")
    assert shop.state()["books"]["adopted"] == 0
    shop.kill()

    shop.start()
    wait_for(lambda: shop.state()["books"]["adopted"] > 0, "it has found them")
    books = shop.state()["books"]
    # Only a part of them is read into memory at a time.
    assert books["unadopted"] > 0
    assert books["spooled"] + books["unadopted"] == CARDS + 3
    private_rabbitmq.start_app()
    wait_for(lambda: bool(shop.state()["books"]["confirmed"] == CARDS + 3), "all")

    wait_for(lambda: shop.state()["books"]["spooled"] == 0, "nothing is left on disk")

    def shown() -> dict[tuple[str, str], int]:
        counts: Counter[tuple[str, str]] = Counter()
        for row in shop.state()["events"]:
            counts[row["state"], row["origin"]] += row["count"]
        return counts

    # The page hears of it by signals, which come a little later.
    expected = {("confirmed", "left by an earlier process"): CARDS + 3}
    wait_for(lambda: shown() == expected, "the page shows all as confirmed")


def test_what_waits_in_memory_is_lost(
    serve: Serve, private_rabbitmq: RabbitMQNode
) -> None:
    private_rabbitmq.stop_app()
    shop = serve("memory")
    place_orders(shop)
    shop.kill()

    private_rabbitmq.start_app()
    shop.start()
    assert shop.post("/orders", product="1", quantity="1") == 201
    wait_for(lambda: bool(shop.state()["books"]["confirmed"] == 1), "the new order")

    (order,) = private_rabbitmq.get_all("orders.created")
    assert order.json()["order_id"] == 4


def is_on_disk(shop: ServedShop) -> bool:
    """Whether all that :func:`place_orders` orders is; a request waits a second."""
    return bool(shop.state()["books"]["spooled"] == CARDS + 3)


def place_orders(shop: ServedShop) -> None:
    """Place two orders of one item each, and one of gift cards."""
    assert shop.post("/orders", product="1", quantity="1") == 201
    assert shop.post("/orders", product="2", quantity="1") == 201
    assert shop.post("/orders/gift-cards") == 201
