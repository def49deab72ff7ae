"""The examples and the tables of docs/cloudevents.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
from pika import BasicProperties

from flask_eventcollector import Event
from flask_eventcollector.messages.cloudevents import attributes_of
from tests.cloudevents.support import encode
from tests.conftest import require
from tests.docs.modules import imported
from tests.docs.reader import ROOT, find, find_one, runs
from tests.docs.test_messages import NODE, RUBY, Language, lines_of
from tests.helpers import DEADLINE
from tests.rabbitmq import RabbitMQNode

PAGE = "docs/cloudevents.md"
TEXT = (ROOT / PAGE).read_text()
SHOP, TEST, CONSUMER, SDK_CONSUMER, IN_NODE, IN_RUBY = (
    find_one(page=PAGE, file=name)
    for name in (
        "shop.py",
        "test_orders.py",
        "consumer.py",
        "consumer_sdk.py",
        "consumer.js",
        "consumer.rb",
    )
)
BINARY, STRUCTURED = find(page=PAGE, language="text")
QUEUE = "orders.created"
MODES = ["binary", "structured"]


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shop(mode: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The shop of the page in *mode*, in a test."""
    monkeypatch.setenv("FLASK_TESTING", "true")
    with opened(mode) as shop:
        yield shop


@contextmanager
def opened(mode: str) -> Iterator[Any]:
    """The shop of the page in *mode*."""
    changed = SHOP._replace(code=SHOP.code.replace('"binary"', f'"{mode}"'))
    with imported(changed) as (shop,):
        yield shop


def order(shop: Any) -> Event:
    with shop.events.capture() as captured:
        shop.app.test_client().post("/orders/7")
    (found,) = captured.published
    event: Event = found.event
    return event


def message(event: Event) -> str:
    """*event* as the page shows its message."""
    named = {"content_type": event.content_type, "type": event.properties.type}
    lines = [f"{name}: {value}" for name, value in (named | {**event.headers}).items()]
    return "\n".join([*lines, "", event.body.decode(), ""])


def anonymous(text: str) -> str:
    """*text* without what differs each time."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)


@runs(SHOP, BINARY, STRUCTURED)
def test_the_messages_are_those_of_the_page(shop: Any, mode: str) -> None:
    shown = {"binary": BINARY, "structured": STRUCTURED}[mode]
    assert anonymous(message(order(shop))) == anonymous(shown.code)


@runs(TEST)
def test_the_test_of_the_page_passes(shop: Any) -> None:
    names: dict[str, Any] = {}
    exec(TEST.code, names)
    with shop.events.capture() as captured:
        names["test_an_order_is_a_cloudevent"](shop.app.test_client(), captured)


@runs(CONSUMER, SDK_CONSUMER)
@pytest.mark.parametrize("consumer", [CONSUMER, SDK_CONSUMER], ids=["own", "sdk"])
def test_a_consumer_reads_it(
    shop: Any, mode: str, consumer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if consumer is CONSUMER and mode == "structured":
        pytest.skip("it reads binary mode")
    event, channel = order(shop), Mock()
    properties = BasicProperties(
        message_id=event.id,
        content_type=event.content_type,
        headers=dict(event.headers),
    )
    with imported(consumer) as (module,):
        module.on_message(channel, Mock(delivery_tag=1), properties, event.body)

    year = event.enqueued_at.year
    said = f"com.example.order.created of orders/7 at {year}\n{{'order_id': 7}}\n"
    assert capsys.readouterr().out == said
    channel.basic_ack.assert_called_once_with(1)


@runs(IN_NODE, IN_RUBY)
@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    ("language", "example"), [(NODE, IN_NODE), (RUBY, IN_RUBY)], ids=["node", "ruby"]
)
def test_other_languages_read_it(
    rabbitmq: RabbitMQNode,
    language: Language,
    example: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require(language.missing())
    (tmp_path / language.file).write_text(example.code)
    rabbitmq.delete(QUEUE)
    monkeypatch.setenv("FLASK_EVENTCOLLECTOR_BROKER_URL", rabbitmq.url)
    for mode in MODES:
        with opened(mode) as shop:
            shop.app.test_client().post("/orders/7")
            with shop.app.app_context():
                assert shop.events.flush(DEADLINE)

    said = lines_of(language, tmp_path, rabbitmq, 2)

    assert said == "orders/7: order 7\n" * 2
    assert rabbitmq.count(QUEUE) == 0
    rabbitmq.delete(QUEUE)


# The tables.


def rows(title: str) -> list[list[str]]:
    found = re.search(rf"^\| {re.escape(title)} \|.*\n\|.*\n((?:\|.*\n)+)", TEXT, re.M)
    assert found, title
    lines = found[1].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


NAMES = {"datetime": datetime, "timezone": timezone, "UUID": UUID}


@pytest.mark.parametrize("row", rows("Python"), ids=lambda row: row[0])
def test_a_value_is_sent_as_documented(row: list[str]) -> None:
    python, in_json, in_header = (cell.strip("`") for cell in row)
    attributes = {"x": eval(python, NAMES)}

    binary = encode(attributes=attributes)
    structured = encode(mode="structured", attributes=attributes)

    assert binary.headers["ce-x"] == in_header
    assert f'"x":{in_json},' in structured.body.decode()
    assert json.loads(structured.body)["x"] == json.loads(in_json)


def test_each_attribute_is_in_the_table() -> None:
    documented = {name for row in rows("attribute") for name in row[0].split("`")[1::2]}
    event = encode(headers={"traceparent": "00-…", "tracestate": "vendor=1"})
    assert documented == {*attributes_of(event), "subject", "dataschema"}
