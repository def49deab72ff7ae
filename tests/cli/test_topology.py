"""``flask events topology`` where there is no broker, or none that answers.

``tests/integration/test_topology.py`` runs it on a real one.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pika import spec

from flask_eventcollector.cli import topology
from tests.cli.support import runner
from tests.helpers import Shop, open_shop
from tests.isolation.fake_broker import FakeBroker

TOPIC = {"shop": {"type": "topic"}}
COMMANDS = ["check", "diff", "apply"]


def look(*command: str, **settings: Any) -> Result:
    with open_shop(TESTING_BROKER=True, **settings) as shop:
        return runner(shop).invoke(args=["events", "topology", *command])


@pytest.mark.parametrize("command", COMMANDS)
def test_memory_has_nothing_to_compare(command: str) -> None:
    result = look(command, BROKER_URL="memory://", EXCHANGES=TOPIC)
    assert result.exit_code == 1
    assert "memory://, which has no exchanges and queues to compare" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_broker_that_can_t_be_reached_is_an_error(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"amqp://user:secret@127.0.0.1:{port}/"
    result = look(command, BROKER_URL=url, EXCHANGES=TOPIC)
    assert result.exit_code == 1
    assert f"Can't reach the broker: 127.0.0.1:{port}: " in result.stderr
    assert "secret" not in result.output + result.stderr


def test_so_is_one_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "_PATIENCE", 0.2)
    with FakeBroker() as broker:
        broker.unanswered = {"Exchange.Declare"}
        result = look("check", BROKER_URL=broker.url, EXCHANGES=TOPIC)
    assert result.exit_code == 1
    assert "The broker did not respond within 0 s" in result.stderr


def test_without_settings_there_is_nothing_to_do() -> None:
    with FakeBroker() as broker:
        result = look("check", BROKER_URL=broker.url)
        assert broker.connections == 0
    assert (result.exit_code, result.stdout) == (0, "The settings declare nothing.\n")


def test_the_first_node_that_can_be_reached_is_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with FakeBroker() as broker:
        url = f"amqp://127.0.0.1:{port};{broker.url}"
        result = look("check", BROKER_URL=url, EXCHANGES=TOPIC)
    assert result.exit_code == 0
    assert "exchange  shop  same" in result.stdout


def test_each_address_of_a_node_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def both(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        hosts = ["127.0.0.2", "127.0.0.1"] if host == "rabbit.test" else [host]
        return [it for name in hosts for it in resolve(name, port, *args, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with FakeBroker() as broker:
        url = f"amqp://rabbit.test:{broker.port}"
        result = look("check", BROKER_URL=url, EXCHANGES=TOPIC)
    assert result.exit_code == 0


def test_check_names_what_may_be_lost_silently() -> None:
    queues = {"orders": {"x-max-length": 5}}
    with FakeBroker() as broker:
        result = look("check", BROKER_URL=broker.url, QUEUES=queues)
    assert result.exit_code == 0
    assert "Losses: queue 'orders' drops its oldest messages at" in result.stdout


def test_what_is_missing_gives_the_exit_code() -> None:
    def missing(method: Any) -> Any:
        is_passive = getattr(method, "passive", False)
        return spec.Channel.Close(404, "NOT_FOUND", 50, 10) if is_passive else None

    with FakeBroker() as broker:
        broker.on_declare = missing
        results = {
            command: look(command, BROKER_URL=broker.url, EXCHANGES=TOPIC)
            for command in COMMANDS
        }

    codes = {command: result.exit_code for command, result in results.items()}
    assert codes == {"check": 3, "diff": 3, "apply": 0}
    assert results["check"].stdout.splitlines()[1:] == [
        "exchange  shop  missing",
        "Missing: 1, which 'apply' declares and binds.",
    ]
    assert "+ exchange shop" in results["diff"].stdout
    assert "exchange  shop  declared" in results["apply"].stdout


QUEUE_OF_OTHERS = {"theirs": {"declare": False, "bind": ["shop:#"]}}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_queue_of_others_is_looked_for_and_left_to_them(command: str) -> None:
    settings: dict[str, Any] = {"EXCHANGES": TOPIC, "QUEUES": QUEUE_OF_OTHERS}
    with FakeBroker() as broker:
        result = look(command, BROKER_URL=broker.url, **settings)
        sent = [it for it in broker.declared if not getattr(it, "passive", False)]

    assert result.exit_code == 0
    assert {it.NAME for it in sent} <= {"Exchange.Declare"}
    if command != "diff":
        assert "queue     theirs  same" in result.stdout
    assert "binding" not in result.stdout


def test_a_queue_of_others_that_is_missing_is_told() -> None:
    def missing(method: Any) -> Any:
        is_it = method.NAME == "Queue.Declare"
        return spec.Channel.Close(404, "NOT_FOUND", 50, 10) if is_it else None

    with FakeBroker() as broker:
        broker.on_declare = missing
        settings: dict[str, Any] = {"EXCHANGES": TOPIC, "QUEUES": QUEUE_OF_OTHERS}
        result = look("apply", BROKER_URL=broker.url, **settings)

    assert result.exit_code == 3
    assert (
        "queue theirs: the settings do not declare it: leave out 'declare' in"
        " EVENTCOLLECTOR_QUEUES, or have others declare it" in result.stdout
    )


def test_a_flush_counts_apart_what_no_queue_need_get(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "BROKER_URL": "memory://",
        "BACKLOG": "spool",
        "SPOOL_DIR": str(tmp_path / "spool"),
        "EXCHANGES": {"news": {"type": "topic", "unrouted": "discard"}},
        "QUEUES": {"orders": {"bind": ["news:orders"]}},
    }
    with open_shop(TESTING_BROKER=True, **settings) as shop:
        shop.faults.go_down()
        for key in ("orders", "mail"):
            shop.events.enqueue_event(1, key, exchange="news")
        shop.events.publish()
        shop.events.close()
    with open_shop(TESTING_BROKER=True, **settings) as heir:
        result = runner(heir).invoke(args=["events", "flush"])

    assert result.exit_code == 0
    assert result.stdout == "1 event delivered, 1 that no queue gets.\n"


@pytest.mark.parametrize(
    "close",
    [
        spec.Channel.Close(403, "ACCESS_REFUSED - no", 40, 10),
        spec.Connection.Close(503, "COMMAND_INVALID - no", 40, 10),
    ],
)
@pytest.mark.parametrize("is_passive", [True, False])
def test_what_is_refused_holds_up_no_other(close: Any, is_passive: bool) -> None:
    def refuse(method: Any) -> Any:
        is_it = method.NAME == "Exchange.Declare" and method.passive is is_passive
        return close if is_it else None

    with FakeBroker() as broker:
        broker.on_declare = refuse
        queues = {"orders": {"bind": ["shop:#"]}}
        settings = {"EXCHANGE": "crm", "EXCHANGES": TOPIC, "QUEUES": queues}
        result = look("check", BROKER_URL=broker.url, **settings)

    assert result.exit_code == 3
    assert "exchange  shop             refused" in result.stdout
    assert f"exchange shop: {close.reply_text}: " in result.stdout
    crm = "refused" if is_passive else "same"
    assert f"exchange  crm              {crm}" in result.stdout
    assert "queue     orders           same" in result.stdout


def test_a_connection_that_ends_is_an_error() -> None:
    def drop(method: Any) -> Any:
        raise ConnectionAbortedError

    with FakeBroker() as broker:
        broker.on_declare = drop
        result = look("check", BROKER_URL=broker.url, EXCHANGES=TOPIC)

    assert result.exit_code == 1
    assert "Can't reach the broker: " in result.stderr


def test_without_a_url_there_is_no_broker() -> None:
    shop = Shop()
    shop.testing = False
    result = runner(shop).invoke(args=["events", "topology", "check"])
    assert result.exit_code == 1
    assert "EVENTCOLLECTOR_BROKER_URL is not set" in result.stderr


def test_what_differs_is_named_with_the_cure() -> None:
    text = "inequivalent arg 'x-a' for queue 'q' in vhost '/': received '6' but current"
    close = spec.Channel.Close(406, f"PRECONDITION_FAILED - {text} is '5'", 50, 10)

    def differ(method: Any) -> Any:
        same = method.passive or (method.arguments or {}).get("x-a") == 5
        return None if same else close

    with FakeBroker() as broker:
        broker.on_declare = differ
        result = look("diff", BROKER_URL=broker.url, QUEUES={"q": {"x-a": 6}})

    assert result.exit_code == 3
    assert result.stdout == (
        "! queue q: 'x-a' is 5, but the settings say 6\n"
        "! queue q: correct EVENTCOLLECTOR_QUEUES, or delete the queue once it is"
        " empty, so that it is declared anew. Until then, it is used as it is\n"
    )
