"""Processes that leave by `os._exit` run the last flush all the same."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from tests.faults.proxy import Proxy
from tests.helpers import DEADLINE, unmeasured, wait_until
from tests.isolation.fake_broker import FakeBroker

ROOT = Path(__file__).parents[1]

#: Nobody listens there.
NOWHERE = "amqp://127.0.0.1:1/"

PROLOGUE = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from flask import Flask
from flask_eventcollector import EventCollector

app = Flask("script")
app.config["EVENTCOLLECTOR_BROKER_URL"] = sys.argv[1]
app.config["EVENTCOLLECTOR_SHUTDOWN_TIMEOUT"] = 20  # The machine may be busy.
events = EventCollector(app)


def work(number=0):
    with events.auto_publish():
        events.enqueue_event(number, "q")

"""


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as broker:
        yield broker


@pytest.fixture
def far_url(broker: FakeBroker) -> Iterator[str]:
    """The broker's URL, where each byte takes 60 ms."""
    with Proxy(broker.port) as proxy:
        proxy.latency = 0.06
        yield proxy.url


@contextmanager
def started(
    tmp_path: Path, body: str, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path / "script.py"
    script.write_text(PROLOGUE + dedent(body))
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=unmeasured() | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def run(tmp_path: Path, body: str, *arguments: str) -> str:
    """Run *body* after the prologue to its end; returns what it has logged."""
    with started(tmp_path, body, *arguments) as process:
        _, log = process.communicate(timeout=3 * DEADLINE)
        assert process.returncode == 0, log
    return log


# Children of multiprocessing.

CHILDREN = """
    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[2])
        children = [context.Process(target=work, args=(n,)) for n in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
    """

POOL = """
    if __name__ == "__main__":
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            list(pool.map(work, range(3)))
    """


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_children_of_multiprocessing_deliver_to_a_distant_broker(
    tmp_path: Path, broker: FakeBroker, far_url: str, method: str
) -> None:
    log = run(tmp_path, CHILDREN, far_url, method)

    assert sorted(m.body for m in broker.messages) == [b"0", b"1", b"2"]
    assert log == ""


def test_a_pool_of_processes_delivers_to_a_distant_broker(
    tmp_path: Path, broker: FakeBroker, far_url: str
) -> None:
    log = run(tmp_path, POOL, far_url)

    assert sorted(m.body for m in broker.messages) == [b"0", b"1", b"2"]
    assert log == ""


def test_children_of_multiprocessing_count_what_is_lost(tmp_path: Path) -> None:
    log = run(tmp_path, CHILDREN, NOWHERE, "fork")

    assert log.count("Dropped 1 event for q: process ended") == 3


def test_a_child_that_only_enqueues_in_its_parents_request_is_warned_at_once(
    tmp_path: Path, broker: FakeBroker
) -> None:
    log = run(
        tmp_path,
        """
        def only_enqueue():
            for number in range(4):
                events.enqueue_event(number, "q")

        with app.test_request_context():
            context = multiprocessing.get_context("fork")
            child = context.Process(target=only_enqueue)
            child.start()
            child.join()
        """,
        broker.url,
    )

    first, second = log.splitlines()
    assert first.startswith("Enqueued in an inherited request: ")
    assert second == "Discarded 4 events for q: never published."
    assert broker.messages == []


# Children of Celery's workers.


@pytest.mark.skipif(
    importlib.util.find_spec("celery") is None, reason="it needs Celery"
)
def test_a_child_of_a_celery_worker_runs_the_last_flush(
    tmp_path: Path, broker: FakeBroker, far_url: str
) -> None:
    # `tests.faults.endings` has real workers.
    run(
        tmp_path,
        """
        from celery.signals import worker_process_shutdown

        work()
        worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
        os._exit(0)
        """,
        far_url,
    )

    assert [m.body for m in broker.messages] == [b"0"]


# Werkzeug's server, with a process for each connection.

SERVER = """
    from flask import abort, request
    from werkzeug.serving import make_server


    @app.route("/", methods=["GET", "POST"])
    def view():
        events.enqueue_event(len(request.get_data()), "q")
        return "ok"


    server = make_server("127.0.0.1", 0, app, processes=4)
    print(server.port, flush=True)
    server.serve_forever()
    """


def served(process: subprocess.Popen[str]) -> str:
    """The server's URL."""
    assert process.stdout is not None
    return f"http://127.0.0.1:{int(process.stdout.readline())}/"


def ask(url: str, body: bytes | Iterator[bytes] | None = None) -> None:
    with urllib.request.urlopen(url, body, timeout=DEADLINE) as answer:
        assert answer.read() == b"ok"


def test_a_process_for_each_connection_delivers_to_a_distant_broker(
    tmp_path: Path, broker: FakeBroker, far_url: str
) -> None:
    with started(tmp_path, SERVER, far_url) as process:
        url = served(process)
        ask(url)
        ask(url, b"body")
        ask(url, iter([b"in ", b"chunks"]))
        wait_until(lambda: len(broker.messages) == 3, "all are delivered")

    assert sorted(m.body for m in broker.messages) == [b"0", b"4", b"9"]


def test_a_process_for_each_connection_counts_what_is_lost(tmp_path: Path) -> None:
    with started(tmp_path, SERVER, NOWHERE) as process:
        url = served(process)
        for _ in range(3):
            ask(url)
        # It waits for its children.
        process.terminate()
        _, log = process.communicate(timeout=3 * DEADLINE)

    assert log.count("Dropped 1 event for q: process ended") == 3
