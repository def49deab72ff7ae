"""The tables and the consumers of docs/messages.md, against a real RabbitMQ."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timezone
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID

import flask
import pika
import pytest
from flask import Flask

from flask_eventcollector import Event, EventCollector
from flask_eventcollector.messages.encoding import EventEncoder, Ids
from tests.conftest import require
from tests.docs import wire
from tests.docs.reader import Example, find, find_one, runs
from tests.docs.wire import Relay
from tests.helpers import DEADLINE, unmeasured, wait_until
from tests.rabbitmq import RabbitMQNode

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "messages.md").read_text()
#: Where scripts/consumers puts amqplib.
NODE_PATH = ROOT / ".consumers" / "node_modules"
QUEUE = "orders.created"
UUID_PATTERN = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

#: Names used in the page's tables.
NAMES: dict[str, Any] = {
    "Decimal": Decimal,
    "UUID": UUID,
    "date": date,
    "datetime": datetime,
    "time": time_of_day,
    "timezone": timezone,
}


# The page.


def section(heading: str) -> str:
    """The text below *heading*, up to the next heading."""
    below = PAGE.partition(f"\n{heading}\n")[2]
    assert below, heading
    return re.split(r"^##", below, flags=re.M)[0]


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below *heading*."""
    found = re.search(r"(?:^\|.*\n)+", section(heading), re.M)
    assert found, heading
    rows = found[0].splitlines()[2:]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


def code(cell: str) -> str:
    """The first code in a cell."""
    found = re.match(r"`([^`]*)`", cell)
    assert found, cell
    return found[1]


def value(cell: str) -> Any:
    return eval(code(cell), NAMES)


def blocks(heading: str) -> list[Example]:
    """The fenced blocks below *heading*."""
    return find(page="docs/messages.md", heading=heading)


SHOP = find_one(page="docs/messages.md", file="shop.py")


# What is published.


@pytest.fixture
def relay(rabbitmq: RabbitMQNode) -> Iterator[Relay]:
    rabbitmq.delete(QUEUE)
    with Relay(rabbitmq.port) as relay:
        yield relay
    rabbitmq.delete(QUEUE)


@contextmanager
def shop(relay: Relay) -> Iterator[tuple[Flask, EventCollector]]:
    """The shop of the page, which publishes through *relay*."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASK_EVENTCOLLECTOR_BROKER_URL", relay.url)
        names: dict[str, Any] = {"__name__": "shop"}
        exec(SHOP.code, names)
    try:
        yield names["app"], names["events"]
    finally:
        names["events"].close(5)


def publish(relay: Relay, headers: dict[str, Any], **options: Any) -> Event:
    with shop(relay) as (app, events), app.app_context():
        event = events.enqueue_event({"n": 1}, QUEUE, headers=headers, **options)
        assert events.publish(timeout=DEADLINE).complete
    return event


def get(relay: Relay) -> wire.Published:
    """Get the next message, as raw bytes."""
    with pika.BlockingConnection(pika.URLParameters(relay.url)) as connection:
        connection.channel().basic_get(QUEUE, auto_ack=True)
        (message,) = wire.messages(bytes(relay.received[-1]))
    return message


@pytest.mark.rabbitmq
def test_it_is_published_and_arrives_as_documented(relay: Relay) -> None:
    event = publish(relay, {"tenant": "acme"})

    (sent,) = wire.messages(bytes(relay.sent[0]))

    exchange, routing_key, mandatory, immediate = table("## Publishing")
    assert (exchange[0], sent.exchange) == ("exchange", "")
    assert (routing_key[0], sent.routing_key) == ("routing key", QUEUE)
    assert mandatory[1].startswith("true")
    assert immediate[1] == "false"
    assert sent.bits == 0b01
    assert sent.body == event.body
    # The broker adds nothing to it.
    assert get(relay) == sent._replace(bits=0)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("headers", [{}, {"tenant": "acme"}], ids=["without", "with"])
def test_it_has_the_properties_of_the_table(
    relay: Relay, headers: dict[str, str]
) -> None:
    event = publish(relay, headers)

    there = get(relay).properties

    rows = table("## Properties")
    assert {code(row[0]): row[1] for row in rows} == wire.PROPERTIES
    present = {"always", "if there is a header"} if headers else {"always"}
    assert [code(row[0]) for row in rows if row[3] in present] == list(there)
    seconds = int(event.enqueued_at.timestamp())
    expected = {
        "content_type": short(code(rows[0][2])),
        "delivery_mode": bytes([int(code(rows[3][2]))]),
        "message_id": short(str(UUID(event.id))),
        "timestamp": seconds.to_bytes(8, "big"),
        "app_id": short("shop"),
    }
    assert {n: v for n, v in there.items() if n != "headers"} == expected


OPTIONS: dict[str, Any] = {
    "content_type": "application/vnd.shop+json",
    "content_encoding": "utf-8",
    "priority": 5,
    "correlation_id": "order-7",
    "reply_to": "answers",
    "type": "order.created",
}


@pytest.mark.rabbitmq
def test_it_has_the_properties_that_are_given(relay: Relay) -> None:
    publish(relay, {}, **OPTIONS)

    there = get(relay).properties

    given = [code(row[0]) for row in table("## Properties") if row[3] == "if given"]
    assert {*given, "content_type"} == {*OPTIONS, "expiration"}
    for name, value in OPTIONS.items():
        expected = bytes([value]) if isinstance(value, int) else short(value)
        assert there[name] == expected


@runs(find_one(page="docs/messages.md", file="reminders.py"))
def test_a_reminder_is_sent_in_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Flask("shop")
    app.config["TESTING"] = True
    module = ModuleType("shop")
    module.events = events = EventCollector(app)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop", module)
    names: dict[str, Any] = {}
    exec(find_one(page="docs/messages.md", file="reminders.py").code, names)
    with app.app_context(), events.capture() as captured:
        names["remind"](7)
        assert events.publish().delayed == 1
        captured.send_delayed()
    captured.assert_published("orders.created", delay=3600.0, expires_in=7200.0)


@runs(find_one(page="docs/messages.md", file="invoices.py"))
@pytest.mark.rabbitmq
def test_the_properties_of_the_page_are_sent(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop(relay) as (app, events), app.app_context():
        module = ModuleType("shop")
        module.events = events  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "shop", module)
        names: dict[str, Any] = {}
        exec(find_one(page="docs/messages.md", file="invoices.py").code, names)
        names["ask_for_invoice"](7)
        names["send_scan"](b"\x89PNG")
        assert events.publish(timeout=DEADLINE).complete

    asked, scan = get(relay), get(relay)

    assert asked.properties["type"] == short("invoice.requested")
    assert asked.properties["reply_to"] == short("invoices.made")
    assert scan.properties["content_type"] == short("image/png")
    assert scan.body == b"\x89PNG"


def short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


HEADERS = {f"h{at:02}": value(row[0]) for at, row in enumerate(table("## Headers"))}


@pytest.mark.rabbitmq
def test_its_headers_have_the_types_of_the_table(relay: Relay) -> None:
    publish(relay, HEADERS)

    types = [raw[:1].decode() for raw in get(relay).headers.values()]

    assert types == [code(row[1]) for row in table("## Headers")]


@pytest.mark.rabbitmq
def test_the_second_copy_is_the_same_but_for_its_mark(relay: Relay) -> None:
    publish_twice(relay)

    first, second = get(relay), get(relay)

    marked = {**first.headers, "x-possible-duplicate": b"t\x01"}
    assert (second.headers, second.body) == (marked, first.body)
    assert {**second.properties, "headers": b""} == {**first.properties, "headers": b""}


@pytest.mark.parametrize("row", table("## Body"), ids=lambda row: code(row[0]))
def test_the_body_is_as_documented(row: list[str]) -> None:
    encoder = EventEncoder(max_event_bytes=1000)
    event = encoder.encode(value(row[0]), QUEUE, ids=Ids())

    assert event.body.decode() == code(row[1])


@runs(
    *(
        find_one(page="docs/messages.md", file=file)
        for file in ("formats.py", "hooks.py", "settings.py")
    )
)
def test_the_app_may_make_bodies_and_change_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("formats.py", "hooks.py", "settings.py"):
        code = find_one(page="docs/messages.md", file=file).code
        (tmp_path / file).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    app = Flask("shop")
    app.config.from_pyfile(str(tmp_path / "settings.py"))
    app.config["TESTING"] = True
    events = EventCollector(app)

    with app.test_request_context():
        flask.g.tenant, flask.g.request_id = "acme", "r1"
        event = events.enqueue_event([["sku", "count"], ["A1", 5]], QUEUE)
        events.clear_events_to_publish()

    assert (event.body, event.content_type) == (b"sku,count\r\nA1,5\r\n", "text/csv")
    assert event.headers == {"tenant": "acme"}
    assert event.properties.correlation_id == "r1"


# Consumers.


class Language(NamedTuple):
    """How to run a consumer, and to show how its client decodes headers."""

    heading: str
    client: str
    file: str
    #: What is missing to run it, if anything.
    missing: Callable[[], str | None]
    #: Prints the client's version, then each header in the client's notation, by name.
    probe: str
    column: int
    #: Prints the properties with the names that are its arguments.
    property_probe: str

    @property
    def command(self) -> list[str]:
        program = {".py": sys.executable, ".js": "node", ".rb": "ruby"}
        return [program[Path(self.file).suffix], self.file]

    def run(self, probe: str, folder: Path, url: str, *arguments: str) -> list[str]:
        """Run *probe* as a consumer of the broker at *url*; returns what it prints."""
        (folder / self.file).write_text(probe)
        return subprocess.run(
            [*self.command, *arguments],
            cwd=folder,
            env=environment(url),
            stdout=subprocess.PIPE,
            encoding="utf-8",
            timeout=DEADLINE,
            check=True,
        ).stdout.splitlines()


def _nothing() -> None:
    return None


def _missing_amqplib() -> str | None:
    return _unless("node", "-e", "require('amqplib')", missing="amqplib for Node")


def _missing_bunny() -> str | None:
    return _unless("ruby", "-e", "require 'bunny'", missing="bunny for Ruby")


def _unless(*command: str, missing: str) -> str | None:
    missing += " (scripts/consumers installs it)"
    if shutil.which(command[0]) is None:
        return missing
    works = subprocess.run(command, env=environment(), capture_output=True, check=False)
    return missing if works.returncode else None


def environment(url: str = "") -> dict[str, str]:
    """The environment of a consumer of the broker at *url*."""
    paths = [str(NODE_PATH), *os.environ.get("NODE_PATH", "").split(os.pathsep)]
    return unmeasured() | {
        "AMQP_URL": f"{url}%2F",
        "LC_ALL": "C.UTF-8",
        "NODE_PATH": os.pathsep.join(filter(None, paths)),
        "TZ": "UTC",
    }


PYTHON = Language(
    "Python, with pika",
    "pika",
    "consumer.py",
    _nothing,
    """\
import os, pika, pika.compat
# Its large ints have an L behind them.
pika.compat.long.__repr__ = int.__repr__
connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
_, properties, _ = connection.channel().basic_get("orders.created", auto_ack=True)
print(pika.__version__)
for name in sorted(properties.headers):
    print(repr(properties.headers[name]))
""",
    2,
    """\
import os, pika, sys
connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
_, properties, _ = connection.channel().basic_get("orders.created", auto_ack=True)
print(*(getattr(properties, name) for name in sys.argv[1:]), sep="\\n")
""",
)
NODE = Language(
    "Node, with amqplib",
    "amqplib",
    "consumer.js",
    _missing_amqplib,
    """\
const amqp = require("amqplib"), { inspect } = require("util");
const main = require.resolve("amqplib"), { readFileSync } = require("fs");
const { dirname, join } = require("path");
(async () => {
  const connection = await amqp.connect(process.env.AMQP_URL);
  const channel = await connection.createChannel();
  const { properties } = await channel.get("orders.created", { noAck: true });
  console.log(JSON.parse(readFileSync(join(dirname(main), "package.json"))).version);
  for (const name of Object.keys(properties.headers).sort()) {
    const found = properties.headers[name];
    const bytes = Buffer.isBuffer(found) && found.toString("hex").match(/../g);
    console.log(bytes ? `<Buffer ${bytes.join(" ")}>` : inspect(found));
  }
  await connection.close();
})();
""",
    3,
    """\
const amqp = require("amqplib");
(async () => {
  const connection = await amqp.connect(process.env.AMQP_URL);
  const channel = await connection.createChannel();
  const { properties } = await channel.get("orders.created", { noAck: true });
  for (const name of process.argv.slice(2)) console.log(properties[name]);
  await connection.close();
})();
""",
)
RUBY = Language(
    "Ruby, with bunny",
    "bunny",
    "consumer.rb",
    _missing_bunny,
    """\
require "bunny"
channel = Bunny.new(ENV["AMQP_URL"]).start.create_channel
_, properties, _ = channel.basic_get("orders.created", manual_ack: false)
puts Bunny::VERSION
properties[:headers].sort.each { |_, found| puts found.inspect }
""",
    4,
    """\
require "bunny"
channel = Bunny.new(ENV["AMQP_URL"]).start.create_channel
_, properties, _ = channel.basic_get("orders.created", manual_ack: false)
ARGV.each { |name| puts properties[name.to_sym] }
""",
)
LANGUAGES = [PYTHON, NODE, RUBY]


@pytest.fixture(params=LANGUAGES, ids=["python", "node", "ruby"])
def language(request: pytest.FixtureRequest) -> Language:
    language: Language = request.param
    require(language.missing())
    return language


def publish_twice(relay: Relay) -> None:
    """Publish one order, and lose its first confirm with the connection."""
    relay.lose_confirm = True
    with shop(relay) as (app, events):
        assert app.test_client().post("/orders/7").text == "placed"
        with app.app_context():
            assert events.flush(DEADLINE)
    assert not relay.lose_confirm


@runs(SHOP, *(block for each in LANGUAGES for block in blocks(each.heading)))
@pytest.mark.rabbitmq
def test_a_consumer_prints_what_the_page_shows(
    relay: Relay, rabbitmq: RabbitMQNode, language: Language, tmp_path: Path
) -> None:
    source, output = blocks(language.heading)
    assert source.file == language.file
    (tmp_path / source.file).write_text(source.code)
    publish_twice(relay)

    said = lines_of(language, tmp_path, rabbitmq, len(output.code.splitlines()))

    assert UUID_PATTERN.sub("ID", said) == UUID_PATTERN.sub("ID", output.code)
    assert rabbitmq.count(QUEUE) == 0


def lines_of(
    language: Language, folder: Path, rabbitmq: RabbitMQNode, count: int
) -> str:
    """The first lines of a consumer, which is ended once all is acknowledged."""
    with subprocess.Popen(
        language.command,
        cwd=folder,
        env=environment(rabbitmq.url),
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        too_late = threading.Timer(DEADLINE, process.kill)
        too_late.start()
        try:
            lines = [process.stdout.readline() for _ in range(count)]
            wait_until(lambda: rabbitmq.is_finished(QUEUE), "all is acknowledged")
        finally:
            too_late.cancel()
            process.kill()
    return "".join(lines)


@pytest.mark.rabbitmq
def test_a_client_reads_headers_as_documented(
    relay: Relay, rabbitmq: RabbitMQNode, language: Language, tmp_path: Path
) -> None:
    publish(relay, HEADERS)

    version, *found = language.run(language.probe, tmp_path, rabbitmq.url)

    if f"{language.client} {version}" not in section("## Headers"):
        pytest.skip(f"the table is of another version than {language.client} {version}")
    rows = table("## Headers")
    assert found == [notation(row, language) for row in rows]


@pytest.mark.rabbitmq
def test_a_client_reads_each_property_by_the_name_in_the_table(
    relay: Relay, rabbitmq: RabbitMQNode, language: Language, tmp_path: Path
) -> None:
    options = {**OPTIONS, "expires_in": 3600}
    event = publish(relay, {"tenant": "acme"}, **options)
    names = {
        code(row[0]): code(row[language.column - 1])
        for row in table("Clients give the properties these names:")
        if code(row[0]) not in ("headers", "timestamp")
    }

    probe = language.property_probe
    output = language.run(probe, tmp_path, rabbitmq.url, *names.values())

    sent = {"delivery_mode": 2, "message_id": event.id, "app_id": "shop", **OPTIONS}
    found = dict(zip(names, output, strict=True))
    assert 0 < int(found.pop("expiration")) <= 3_600_000
    assert found == {name: str(value) for name, value in sent.items()}
    assert {*sent, "expiration", "headers", "timestamp"} == {
        code(row[0]) for row in table("## Properties") if row[3] != "never"
    }


def notation(row: list[str], language: Language) -> str:
    cell = row[language.column]
    return repr(value(cell)) if language is PYTHON else code(cell)


def test_the_table_marks_what_a_client_reads_wrongly() -> None:
    """Checked where possible: numbers, and arrays by their length."""
    for row in table("## Headers"):
        sent = value(row[0])
        if type(sent) not in (int, list):
            continue
        for cell in row[3:]:
            read = json.loads(re.sub(r"'", '"', code(cell)))
            right = len(read) == len(sent) if isinstance(sent, list) else read == sent
            assert right != cell.endswith("(wrong)"), row
