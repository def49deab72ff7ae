"""Two services whose apps have the same name, and share the spool's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.integration import load, scripts
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq

FLUSH = "print(events.flush(20), events.stats().confirmed)"


@pytest.fixture
def billing(rabbitmq: RabbitMQNode) -> Iterator[str]:
    """The URL of a new virtual host."""
    name = load.fresh_queue()
    all_of_it = ", ".join(['<<".*">>'] * 3)
    rabbitmq.eval(
        f'rabbit_vhost:add(<<"{name}">>, <<"test">>),'
        " rabbit_auth_backend_internal:set_permissions("
        f'<<"guest">>, <<"{name}">>, {all_of_it}, <<"test">>).'
    )
    yield rabbitmq.url + name
    rabbitmq.eval(f'rabbit_vhost:delete(<<"{name}">>, <<"test">>).')


def get_all(url: str, queue: str) -> list[Any]:
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        bodies = []
        while (body := channel.basic_get(queue, auto_ack=True)[2]) is not None:
            bodies.append(json.loads(body))
        return bodies


def test_what_one_has_left_never_goes_to_the_other_s_virtual_host(
    rabbitmq: RabbitMQNode, billing: str, tmp_path: Path
) -> None:
    stock, queue = rabbitmq.url, load.fresh_queue()

    def flush(url: str) -> str:
        return scripts.run(FLUSH, url, tmp_path / "spool", queue).stdout

    for url, label in ((stock, "stock"), (billing, "billing")):
        ended = scripts.run(scripts.KILLED, url, tmp_path / "spool", queue, label)
        assert ended.returncode == -9, ended.stderr

    # With another node in front, the broker is the same one.
    assert flush(f"amqp://127.0.0.1:1/;{stock}") == "True 50\n"
    assert flush(stock) == "True 0\n"
    assert flush(billing) == "True 50\n"

    assert get_all(stock, queue) == scripts.left_by("stock")
    assert get_all(billing, queue) == scripts.left_by("billing")
    rabbitmq.delete(queue)
