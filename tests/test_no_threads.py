"""If no thread can be started, events wait and are counted; nothing is raised."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector import BrokerState, PublishResult
from flask_eventcollector.brokers.memory import MemoryBroker
from tests.helpers import DEADLINE, Recorder, Shop, open_shop, wait_until
from tests.isolation.fake_broker import FakeBroker
from tests.parts import SignalLog, collect, delivering
from tests.test_fork_and_exit import run_script

OUT_OF_THREADS = "can't start new thread"
LINE = f"No thread could be started: {OUT_OF_THREADS}. Events wait until one can."


@contextmanager
def no_thread_for(*names: str) -> Iterator[None]:
    """Make threads fail to start whose names have these prefixes."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith(names):
            failed.add(thread)
            raise RuntimeError(OUT_OF_THREADS)
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        yield


#: Threads whose start has failed.
failed: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def nothing_starts_twice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in Python 3.13."""
    start = threading.Thread.start

    def start_once(thread: threading.Thread) -> None:
        if thread in failed:
            raise RuntimeError("thread already started")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_once)
    yield
    failed.clear()


@pytest.fixture
def node() -> Iterator[FakeBroker]:
    with FakeBroker() as node:
        yield node


def real_shop(node: FakeBroker, **settings: Any) -> AbstractContextManager[Shop]:
    return open_shop(BROKER_URL=node.url, TESTING_BROKER=True, **settings)


def test_the_first_event_is_taken_and_waits(
    node: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    with real_shop(node) as shop:
        with no_thread_for("eventcollector-"):
            shop.enqueue("a", "b")
            assert shop.events.publish(timeout=0.1) == PublishResult(retained=2)

            stats = shop.events.stats()
            assert stats.broker is BrokerState.DOWN
            assert stats.broker_error.endswith(f"not be started: {OUT_OF_THREADS}")
        assert [r.getMessage() for r in caplog.records] == [LINE]
        assert shop.books() == {"retained": 2}


def test_no_caller_waits_for_a_broker_without_a_thread(node: FakeBroker) -> None:
    with (
        real_shop(node, CONFIRM_TIMEOUT=10 * DEADLINE) as shop,
        no_thread_for("eventcollector-"),
    ):
        shop.enqueue("a")
        assert shop.events.publish() == PublishResult(retained=1)


@pytest.mark.parametrize("missing", ["io", "flusher", "spool", "adopter", ""])
def test_the_next_event_starts_what_could_not_be_started(
    node: FakeBroker, missing: str, tmp_path: Path
) -> None:
    spool = {"BACKLOG": "spool", "SPOOL_DIR": str(tmp_path / "spool")}
    with real_shop(node, **spool) as shop, Recorder(shop) as heard:
        with no_thread_for(f"eventcollector-{missing}"):
            shop.enqueue("a")
            shop.events.publish()
        shop.enqueue("b")
        shop.events.publish(timeout=DEADLINE)

        wait_until(lambda: shop.books() == {"confirmed": 2}, "both are confirmed")

        def signal_log() -> int:
            return sum(len(each.events) for each in heard.heard("events_published"))

        heard.wait_for(lambda: signal_log() == 2, "both are signalled")


def test_what_no_flusher_has_signalled_is_signalled_by_close() -> None:
    signal_log = SignalLog()
    with (
        no_thread_for("eventcollector-flusher"),
        delivering(MemoryBroker(), signal_log) as delivery,
    ):
        delivery.hand_over(collect(delivery, "a"))
        assert signal_log.payloads("events-published") == []

        delivery.close(DEADLINE)

        assert signal_log.payloads("events-published") == ["a"]


def test_a_connection_needs_no_thread_but_its_own(
    node: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Timer) -> None:
        raise RuntimeError(OUT_OF_THREADS)

    # In one of these, pika would resolve the host.
    monkeypatch.setattr(threading.Timer, "start", fail)
    with real_shop(node) as shop:
        shop.enqueue("a")
        assert shop.events.publish(timeout=DEADLINE).complete


AT_EXIT = """
        import _thread

        @atexit.register
        def tell_the_broker():
            # As Python 3.12.0 to 3.12.2 do.
            def fail(*about, **more):
                raise RuntimeError("can't create new thread at interpreter shutdown")

            _thread.start_new_thread = threading._start_new_thread = fail
            threading._start_joinable_thread = fail
            shop.enqueue("goodbye")
            print(shop.events.publish(), flush=True)

        settings = {settings}
        shop = Shop(BROKER_URL="amqp://127.0.0.1:1/", TESTING_BROKER=True, **settings)
        """


@pytest.mark.parametrize(
    ("backlog", "fate"),
    [
        ("memory", "Dropped 1 event for q: process ended"),
        ("spool", "Left 1 event in the spool"),
    ],
)
def test_the_first_event_at_the_end_of_the_process_is_counted(
    tmp_path: Path, backlog: str, fate: str
) -> None:
    settings = {"BACKLOG": backlog, "SPOOL_DIR": str(tmp_path / "spool")}

    done = run_script(tmp_path, AT_EXIT.replace("{settings}", repr(settings)))

    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "retained=1" in done.stdout
    assert "No thread could be started: can't create new thread at" in done.stderr
    assert fate in done.stderr
