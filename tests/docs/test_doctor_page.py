"""The transcripts of docs/doctor.md, from a broker.

With REWRITE_TRANSCRIPTS=1 the page gets those of this run instead.
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector.doctor import spool
from flask_eventcollector.doctor.case import Case
from flask_eventcollector.stores.spool.destination import Destination
from tests.cli.support import runner
from tests.docs.reader import ROOT, Example, find, runs
from tests.helpers import Shop, open_shop
from tests.rabbitmq import RabbitMQNode
from tests.spool.support import leave

SOUND, ILL = find(page="docs/doctor.md", language="console")
COMMAND = "$ flask events doctor\n"
#: The spool's folder on the page, and the broker's address.
FOLDER, ADDRESS = "/var/lib/shop/events", "rabbit:5672"
VARYING = {
    r"RabbitMQ \d[\w.+~-]*": "RabbitMQ VERSION",
    r"\b\d+(\.\d)? ms": "TIME",
    r"\d+ MiB free": "SIZE free",
    r"\d+ are running": "N are running",
}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine like the page's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spool, "type_of", lambda path: "ext4")
    monkeypatch.setattr(Case, "processes", lambda case: set())
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 1024))
    for name in "GUNICORN_CMD_ARGS", "WEB_CONCURRENCY":
        monkeypatch.delenv(name, raising=False)


def settings(node: RabbitMQNode, folder: Path, **more: Any) -> dict[str, Any]:
    places = {"BROKER_URL": node.url, "BACKLOG": "spool", "SPOOL_DIR": str(folder)}
    return places | {"TESTING_BROKER": True} | more


def varying(text: str) -> str:
    for pattern, name in VARYING.items():
        text = re.sub(pattern, name, text)
    return text


def check(example: Example, shop: Shop, folder: Path, node: RabbitMQNode) -> int:
    """Compare what the doctor says with the page; returns the exit code."""
    result = runner(shop).invoke(args=["events", "doctor"])
    said = result.stdout.replace(str(folder), FOLDER)
    said = COMMAND + said.replace(f"127.0.0.1:{node.port}", ADDRESS)
    if os.environ.get("REWRITE_TRANSCRIPTS"):
        path = ROOT / example.page
        before = f"```console\n{example.code}```"
        path.write_text(path.read_text().replace(before, f"```console\n{said}```", 1))
    else:
        assert varying(said) == varying(example.code)
    return result.exit_code


@runs(SOUND)
def test_a_sound_set_up(rabbitmq: RabbitMQNode, tmp_path: Path) -> None:
    folder = tmp_path / "events"
    with open_shop(**settings(rabbitmq, folder)) as shop:
        assert check(SOUND, shop, folder, rabbitmq) == 0


@runs(ILL)
def test_one_with_mistakes(rabbitmq: RabbitMQNode, tmp_path: Path) -> None:
    folder = tmp_path / "events"
    here = Destination((f"amqp://127.0.0.1:{rabbitmq.port}/%2F",))
    leave(folder, [1, 2], "ordres.created", destination=here)
    leave(folder, [3], destination=here, app="bookshop")
    with rabbitmq.channel() as channel:
        channel.queue_declare("mails.requested", durable=True)
    queues = {"mails.requested": {}, "orders": {"bind": ["amq.topic:orders.#"]}}
    more = {"EXCHANGE": "amq.topic", "QUEUES": queues}
    try:
        with open_shop(**settings(rabbitmq, folder, **more)) as shop:
            assert check(ILL, shop, folder, rabbitmq) == 3
    finally:
        rabbitmq.delete("mails.requested")
