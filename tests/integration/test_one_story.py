"""Metrics, ``status``, ``why``, ``top`` and the dashboard tell one story."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import DEADLINE, wait_until
from tests.integration import load
from tests.integration.serving import Server
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq

HELD = "eventcollector_held_events"
COUNTED = "eventcollector_events_total"

#: On a busy machine, the commands take several seconds each.
wait_for = partial(wait_until, seconds=5 * DEADLINE)


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


def post_to_several(server: Server, queue: str) -> int:
    """Enqueue events in several workers; returns how many."""
    count, workers = 0, set[int]()
    with ThreadPoolExecutor(3) as clients:
        while len(workers) < 2:
            workers |= {*clients.map(partial(server.post, queue), [5, 5, 5])}
            count += 15
    return count


@pytest.mark.slow
def test_all_sources_agree(server: Server, rabbitmq: RabbitMQNode) -> None:
    queue, missing = rabbitmq.declare(load.fresh_queue()), load.fresh_queue()
    sent = post_to_several(server, queue)
    one = server.post_one(missing)
    wait_for(lambda: agree(server, 1, sent), "one waits for its queue")

    stories: list[Any] = []

    def has_failed() -> bool:
        # The history is written a second later.
        stories.append(server.events("why", one))
        return "failed" in [line["what"] for line in stories[-1]["history"]]

    wait_for(has_failed, "it is in the history")
    history = stories[-1]["history"]
    assert history[0]["where"] == "POST /id/<queue> (enqueue_one)"
    failed = next(line for line in history if line["what"] == "failed")
    assert failed["outcome"] == "returned"
    assert stories[-1]["waiting"]["id"] == one

    # Its process is killed: another one takes it over.
    os.kill(failed["pid"], signal.SIGKILL)

    def is_adopted() -> bool:
        # A worker that is in use looks for what others have left.
        server.post(queue, 1)
        history = server.events("why", one)["history"]
        return "adopted" in [line["what"] for line in history]

    wait_for(is_adopted, "it is adopted")
    rabbitmq.declare(missing)
    wait_for(
        lambda: server.events("why", one)["next"] == "nothing: the broker has it",
        "it is delivered",
    )
    wait_for(lambda: server.events("status")["total"]["waiting"] == 0, "no row is left")
    wait_for(
        lambda: server.scrape().get(f"{HELD} retained", -1.0) == 0.0, "nothing waits"
    )


@pytest.mark.slow
def test_all_sources_agree_during_an_outage(
    private_rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    queue = private_rabbitmq.declare(load.fresh_queue())
    with open_server(private_rabbitmq, tmp_path) as server:
        sent = post_to_several(server, queue)
        wait_for(lambda: agree(server, 0, sent), "all are confirmed")
        private_rabbitmq.stop_app()
        more = post_to_several(server, queue)
        wait_for(lambda: agree(server, more, sent), "the new ones wait")
        private_rabbitmq.start_app()
        wait_for(lambda: agree(server, 0, sent + more), "they are delivered")
