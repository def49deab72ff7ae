"""Metrics, ``status``, ``why``, ``top`` and the dashboard tell one story."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import wait_until
from tests.integration import load
from tests.integration.serving import Server
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq

HELD = "eventcollector_held_events"
COUNTED = "eventcollector_events_total"


@contextmanager
def open_server(node: RabbitMQNode, folder: Path) -> Iterator[Server]:
    server = Server(
        folder,
        node.url,
        BACKLOG="spool",
        SPOOL_DIR=str(folder / "spool"),
        HISTORY_DIR=str(folder / "history"),
        RETRY_MAX_DELAY="1",
    )
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def server(rabbitmq: RabbitMQNode, tmp_path: Path) -> Iterator[Server]:
    with open_server(rabbitmq, tmp_path) as server:
        yield server


def numbers(server: Server) -> dict[str, tuple[float, ...]]:
    """What each source says of what waits and what is confirmed."""
    metrics = server.scrape()
    top = server.events("top")["total"]
    waiting = server.events("status")["total"]["waiting"]
    board = server.dashboard()
    books = board["books"]
    targets = sum(waiting for waiting, _ in board["targets"].values())
    return {
        "metrics": (
            metrics.get(f"{HELD} retained", -1.0),
            metrics.get(f"{COUNTED} confirmed", -1.0),
        ),
        "top": (top["retained"], top["confirmed"]),
        "dashboard": (books["retained"], books["confirmed"]),
        "status": (waiting,),
        "targets": (targets,),
    }


def agree(server: Server, waiting: int, confirmed: int) -> bool:
    expected = dict.fromkeys(["metrics", "top", "dashboard"], (waiting, confirmed))
    places = dict.fromkeys(["status", "targets"], (waiting,))
    return numbers(server) == {**expected, **places}


def test_all_sources_agree(server: Server, rabbitmq: RabbitMQNode) -> None:
    queue, missing = rabbitmq.declare(load.fresh_queue()), load.fresh_queue()
    for _ in range(4):
        server.post(queue, 5)
    one = server.post_one(missing)
    wait_until(lambda: agree(server, 1, 20), "one waits for its queue")

    story = server.events("why", one)
    assert story["history"][0]["where"] == "POST /id/<queue> (enqueue_one)"
    failed = next(line for line in story["history"] if line["what"] == "failed")
    assert failed["outcome"] == "returned"
    assert story["waiting"]["id"] == one

    # Its process is killed: another one takes it over.
    os.kill(failed["pid"], signal.SIGKILL)

    def is_adopted() -> bool:
        # A worker that is in use looks for what others have left.
        server.post(queue, 1)
        history = server.events("why", one)["history"]
        return "adopted" in [line["what"] for line in history]

    wait_until(is_adopted, "it is adopted")
    rabbitmq.declare(missing)
    wait_until(
        lambda: server.events("why", one)["next"] == "nothing: the broker has it",
        "it is delivered",
    )
    assert server.events("status")["total"]["waiting"] == 0
    wait_until(
        lambda: server.scrape().get(f"{HELD} retained", -1.0) == 0.0, "nothing waits"
    )


@pytest.mark.slow
def test_all_sources_agree_during_an_outage(
    private_rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    queue = private_rabbitmq.declare(load.fresh_queue())
    with open_server(private_rabbitmq, tmp_path) as server:
        for _ in range(4):
            server.post(queue, 5)
        wait_until(lambda: agree(server, 0, 20), "all are confirmed")
        private_rabbitmq.stop_app()
        for _ in range(3):
            server.post(queue, 2)
        wait_until(lambda: agree(server, 6, 20), "six wait")
        private_rabbitmq.start_app()
        wait_until(lambda: agree(server, 0, 26), "they are delivered")
