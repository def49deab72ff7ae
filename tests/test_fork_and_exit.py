"""Processes: a forked child starts empty, and at exit every event is accounted for."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from flask_eventcollector import PublishResult, Stats
from flask_eventcollector.delivery import forks, records
from tests.helpers import (
    DEADLINE,
    Shop,
    books,
    in_child,
    in_thread,
    open_shop,
    unmeasured,
    wait_until,
)

ROOT = Path(__file__).parents[1]

# Newer Pythons warn about forks while threads run. These tests show that it works.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


def enqueue_and_publish(shop: Shop, *payloads: Any) -> int:
    shop.enqueue(*payloads)
    return shop.events.publish(timeout=DEADLINE).confirmed


@contextmanager
def handled(handler: logging.Handler) -> Iterator[None]:
    """Give the library's records to *handler* alone."""
    records.logger.addHandler(handler)
    records.logger.propagate = False
    try:
        yield
    finally:
        records.logger.propagate = True
        records.logger.removeHandler(handler)


# A forked child.


def test_a_child_starts_empty_and_the_parent_keeps_its_own(shop: Shop) -> None:
    shop.enqueue("collected")
    shop.faults.go_down()
    with shop.events.auto_publish():
        shop.enqueue("retained")

    def look() -> list[Any]:
        return [
            shop.events.stats() == Stats(),
            len(shop.events.events_to_publish),
            shop.events.clear_events_to_publish(),
            shop.events.publish() == PublishResult(),
            shop.sent(),
            shop.books(),
        ]

    assert in_child(look) == [True, 0, 0, True, [], {}]
    assert shop.books() == {"collected": 1, "retained": 1}
    shop.faults.come_up()
    assert shop.events.publish() == PublishResult(confirmed=1)
    assert shop.sent() == ["retained", "collected"]


def test_a_child_publishes_its_own_events(shop: Shop) -> None:
    shop.enqueue("parent")

    def work() -> list[Any]:
        enqueue_and_publish(shop, "child")
        return [shop.sent(), shop.books()]

    assert in_child(work) == [["child"], {"confirmed": 1}]
    assert shop.books() == {"collected": 1}


def test_a_child_does_not_repeat_its_parents_ids(shop: Shop) -> None:
    def some_ids() -> list[str]:
        return [shop.events.enqueue_event(n, "q").id for n in range(100)]

    ids = [some_ids(), in_child(some_ids), in_child(some_ids), some_ids()]
    assert len({id for some in ids for id in some}) == 400


def test_a_child_has_a_flusher_of_its_own(shop: Shop) -> None:
    enqueue_and_publish(shop, "parent")

    def work() -> list[Any]:
        before = len(threading.enumerate())
        shop.enqueue("child")
        shop.faults.go_down()
        shop.events.publish()
        shop.faults.come_up()
        return [before, len(threading.enumerate()), shop.books()]

    assert in_child(work) == [1, 2, {"confirmed": 1}]


def test_a_threads_collector_that_the_parent_made_is_empty_in_the_child(
    shop: Shop,
) -> None:
    own = shop.events.thread_singleton_instance()
    own.enqueue_event("parent", "q")

    def work() -> list[Any]:
        own.enqueue_event("child", "q")
        shop.enqueue("child too")
        return [own.publish().confirmed, shop.sent(), shop.books()]

    assert in_child(work) == [2, ["child", "child too"], {"confirmed": 2}]
    assert own.publish() == PublishResult(confirmed=1)
    assert shop.sent() == ["parent"]
    assert shop.books() == {"confirmed": 1}


def test_a_collector_that_the_parent_made_has_nothing_to_discard_in_the_child(
    shop: Shop,
) -> None:
    own = shop.events.thread_singleton_instance()
    own.enqueue_event("parent", "q")

    def work() -> list[Any]:
        seen = list(own.events_to_publish)
        return [seen, own.clear_events_to_publish(), shop.books()]

    assert in_child(work) == [[], 0, {}]
    assert shop.books() == {"collected": 1}


def test_a_block_entered_before_the_fork_works_on_both_sides(shop: Shop) -> None:
    block = shop.events.auto_publish()
    collector = block.__enter__()
    shop.enqueue("parent")

    def work() -> list[Any]:
        shop.enqueue("child")
        collector.enqueue_event("child too", "q")
        block.__exit__(None, None, None)
        return [shop.sent(), shop.books()]

    assert in_child(work) == [["child", "child too"], {"confirmed": 2}]
    block.__exit__(None, None, None)
    assert shop.sent() == ["parent"]
    assert shop.books() == {"confirmed": 1}


def test_a_request_begun_before_the_fork_works_on_both_sides(shop: Shop) -> None:
    seen: list[Any] = []
    context = shop.test_request_context()
    context.push()
    shop.enqueue("parent")

    def work() -> list[Any]:
        shop.enqueue("child")
        context.pop()
        return [shop.sent(), shop.books()]

    seen = in_child(work)
    context.pop()

    assert seen == [["child"], {"confirmed": 1}]
    assert shop.sent() == ["parent"]
    assert shop.books() == {"confirmed": 1}


@pytest.mark.parametrize("parent_enqueues", [True, False])
@pytest.mark.parametrize("kind", ["request", "block"])
def test_a_child_that_enqueues_in_an_inherited_scope_is_warned_once(
    shop: Shop, caplog: pytest.LogCaptureFixture, kind: str, parent_enqueues: bool
) -> None:
    enter = shop.test_request_context if kind == "request" else shop.events.auto_publish

    def work() -> str:
        shop.enqueue("child")
        shop.enqueue("child too")
        return caplog.text

    with enter():
        if parent_enqueues:
            shop.enqueue("parent")
        logged = in_child(work)

    assert logged.count(f"Enqueued in an inherited {kind}: ") == 1
    assert "'with events.auto_publish():' in the child" in logged
    assert "inherited" not in caplog.text


def test_a_childs_own_scopes_inside_an_inherited_one_are_not_warned(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> list[Any]:
        with shop.events.auto_publish():
            shop.enqueue("block")
        with shop.test_request_context():
            shop.enqueue("request")
        return [shop.sent(), caplog.text]

    with shop.test_request_context(), shop.events.auto_publish():
        assert in_child(work) == [["block", "request"], ""]


def test_a_child_serves_requests(shop: Shop) -> None:
    @shop.get("/<int:status>")
    def view(status: int) -> tuple[str, int]:
        shop.enqueue(status)
        return "body", status

    client = shop.test_client()
    client.get("/200")

    def work() -> dict[str, int]:
        client.get("/200")
        client.get("/500")
        return shop.books()

    assert in_child(work) == {"confirmed": 1, "discarded": 1}
    assert shop.books() == {"confirmed": 1}


def test_a_childs_child_starts_empty_too(shop: Shop) -> None:
    shop.enqueue("parent")

    def work() -> Any:
        shop.enqueue("child")
        grandchild = in_child(lambda: enqueue_and_publish(shop, "a", "b"))
        return [grandchild, shop.books()]

    assert in_child(work) == [2, {"collected": 1}]
    assert shop.books() == {"collected": 1}


def test_a_child_is_known_by_its_process_id_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # uWSGI forks without Python's own hooks.
    shop.enqueue("parent")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        assert shop.events.stats() == Stats()
        assert enqueue_and_publish(shop, "child") == 1
        shop.events.close(0)

    assert shop.books() == {"collected": 1}


def fork_without_hooks() -> int:
    """Fork as uWSGI's prefork does."""
    fork: Callable[[], int] = ctypes.PyDLL(None).fork
    return fork()


@pytest.mark.parametrize(
    "fork",
    [
        os.fork,
        pytest.param(
            fork_without_hooks,
            marks=pytest.mark.skipif(
                sys.platform != "linux", reason="only Linux reveals such a fork"
            ),
        ),
    ],
)
def test_a_child_may_have_the_process_id_of_an_ancestor(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, fork: Callable[[], int]
) -> None:
    ancestor = os.getpid()
    shop.enqueue("ancestor")

    def work() -> list[Any]:
        monkeypatch.setattr(os, "getpid", lambda: ancestor)
        enqueue_and_publish(shop, "child")
        return [shop.sent(), shop.books()]

    assert in_child(work, fork) == [["child"], {"confirmed": 1}]
    assert shop.books() == {"collected": 1}


def test_threads_that_start_at_once_in_a_child_share_its_delivery(shop: Shop) -> None:
    shop.enqueue("parent")

    def work() -> dict[str, int]:
        ready = threading.Barrier(8)

        def publish() -> None:
            ready.wait()
            enqueue_and_publish(shop, "a")

        threads = [threading.Thread(target=publish) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        return shop.books()

    assert in_child(work) == {"confirmed": 8}


def test_a_childs_thread_is_not_taken_for_a_thread_of_its_parent(shop: Shop) -> None:
    # The system reuses the identifiers of threads that have ended.
    shop.enqueue("parent")

    def work() -> list[int]:
        confirmed: list[int] = []
        for _ in range(3):
            in_thread(lambda: confirmed.append(enqueue_and_publish(shop, "a")))
        return confirmed

    assert in_child(work) == [1, 1, 1]


def test_a_process_id_really_comes_back(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or unshared(["true"]).returncode:
        pytest.skip("this user may not make a namespace of process ids")
    script = tmp_path / "script.py"
    script.write_text(COMES_BACK)

    done = unshared([sys.executable, str(script)])

    assert done.stdout == "True ['child'] {'confirmed': 1}\n", done.stderr


def unshared(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run *command* in a new namespace of process ids."""
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--pid", "--kill-child", *command],
        env=unmeasured() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )


# An ancestor forks a parent and ends; then the parent forks a child.
COMES_BACK = """
import os, time
from pathlib import Path
from tests.helpers import Shop

shop = Shop()


def ancestor():
    shop.enqueue("ancestor")
    shop.events.publish()
    number = os.getpid()
    if os.fork() == 0:
        parent(number)


def parent(number):
    while os.getppid() == number or is_running(number):
        time.sleep(0.01)
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
    if os.fork() == 0:
        child(number)
    os.wait()


def child(number):
    shop.enqueue("child")
    shop.events.publish()
    print(os.getpid() == number, shop.sent(), shop.books(), flush=True)
    os._exit(0)


def is_running(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


if os.fork() == 0:
    ancestor()
    os._exit(0)
os.wait()
os.wait()
"""


def test_a_fork_in_the_middle_of_other_threads_work_breaks_nothing(shop: Shop) -> None:
    stop = threading.Event()

    def load() -> None:
        # The pause lets the thread that forks have its turn.
        while not stop.wait(0.001):
            enqueue_and_publish(shop, *range(20))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        answers = [in_child(lambda: enqueue_and_publish(shop, "a")) for _ in range(100)]
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE)

    assert answers == [1] * 100
    assert shop.books().keys() == {"confirmed"}


def test_a_child_can_log_whatever_its_parents_threads_are_logging(
    tmp_path: Path,
) -> None:
    """The lock of a stream's buffer is inherited as it is, also if a thread has it."""
    stop = threading.Event()

    def log() -> None:
        while not stop.is_set():
            records.log_record(records.Kind.NO_THREAD, reason="x" * 500)

    with open(tmp_path / "log", "w") as stream, handled(logging.StreamHandler(stream)):
        thread = threading.Thread(target=log)
        thread.start()
        try:
            for _ in range(20):
                in_child(lambda: records.log_record(records.Kind.NO_THREAD, reason="y"))
        finally:
            stop.set()
            thread.join(DEADLINE)


def test_a_handler_that_hangs_holds_up_a_fork_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forks, "LIMIT", 0.05)
    hangs, go_on = threading.Event(), threading.Event()

    class Hanging(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            hangs.set()
            assert go_on.wait(DEADLINE)

    with handled(Hanging()):
        thread = threading.Thread(
            target=records.log_record, args=(records.Kind.NO_THREAD,)
        )
        thread.start()
        assert hangs.wait(DEADLINE)
        try:
            assert in_child(lambda: "forked") == "forked"
        finally:
            go_on.set()
            thread.join(DEADLINE)


def test_a_fork_that_hangs_holds_up_a_record_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forks, "LIMIT", 0.05)
    monkeypatch.setitem(forks._forking, -1, None)
    # Threads of other tests may be busy, too.
    me = threading.get_ident()
    with forks.no_fork():
        assert me in forks._busy.values()
    assert me not in forks._busy.values()


def test_close_in_a_child_leaves_the_parent_open(shop: Shop) -> None:
    enqueue_and_publish(shop, "parent")

    def work() -> list[Any]:
        enqueue_and_publish(shop, "child")
        return [shop.events.close(DEADLINE), shop.books()]

    assert in_child(work) == [True, {"confirmed": 1}]
    assert enqueue_and_publish(shop, "parent again") == 1


# The end of a process.


def run_script(
    tmp_path: Path, body: str, *, measured: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run *body* after a prologue, in a new process.

    The last line of its output is the number of seconds that it took to end.
    """
    script = tmp_path / "script.py"
    script.write_text(PROLOGUE + dedent(body) + "ended = time.monotonic()\n")
    return subprocess.run(
        [sys.executable, "-W", "error", script],
        env=(os.environ if measured else unmeasured()) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )


PROLOGUE = """
import atexit, os, sys, threading, time

ended = time.monotonic()


@atexit.register  # Registered first, so it runs last.
def tell_how_long_the_end_took():
    print(time.monotonic() - ended, flush=True)


from tests.helpers import Shop

"""


def seconds_to_end(done: subprocess.CompletedProcess[str]) -> float:
    return float(done.stdout.splitlines()[-1])


def test_a_script_that_publishes_and_ends_logs_nothing(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        shop = Shop()
        shop.enqueue("a")
        assert shop.events.publish(timeout=30).complete
        """,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_script_that_never_publishes_is_warned_about_the_lost_events(
    tmp_path: Path,
) -> None:
    done = run_script(
        tmp_path,
        """
        shop = Shop()
        shop.enqueue("secret", "b")
        shop.enqueue("c", queue="other")
        """,
    )

    assert done.returncode == 0
    assert "Discarded 2 events for q: never published." in done.stderr
    assert "Discarded 1 event for other" in done.stderr
    assert "secret" not in done.stderr


def test_what_other_threads_have_collected_is_counted_at_the_end(
    tmp_path: Path,
) -> None:
    done = run_script(
        tmp_path,
        """
        shop = Shop()
        enqueued = threading.Event()

        def work():
            shop.enqueue("a")
            enqueued.set()
            threading.Event().wait()

        threading.Thread(target=work, daemon=True).start()
        assert enqueued.wait(20)
        """,
    )

    assert "Discarded 1 event for q: never published." in done.stderr


def test_with_the_broker_down_the_end_is_prompt_and_the_loss_is_counted(
    tmp_path: Path,
) -> None:
    done = run_script(
        tmp_path,
        """
        shop = Shop(SHUTDOWN_TIMEOUT=60)
        shop.faults.go_down()
        shop.enqueue("a", "b", "c")
        shop.events.publish()
        """,
    )

    assert done.returncode == 0
    assert "Dropped 3 events for q: process ended" in done.stderr
    assert seconds_to_end(done) < DEADLINE


def test_the_final_state_of_an_event_is_the_last_line_about_it(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        shop = Shop(RETRY_DELAY=0.01, RETRY_MAX_DELAY=0.01)
        shop.faults.refuse("q")
        shop.enqueue("a")
        shop.events.publish()
        for _ in range(3):
            assert not shop.events.flush(20)
        """,
    )

    lines = [line for line in done.stderr.splitlines() if " for q: " in line]
    assert "retained for retry" in lines[0]
    assert re.search(r"Dropped .* for q: process ended", lines[-1])


def test_with_a_broker_that_cannot_be_reached_the_end_is_prompt(
    tmp_path: Path,
) -> None:
    done = run_script(
        tmp_path,
        """
        # Nobody listens on port 1.
        url = "amqp://user:secret@127.0.0.1:1/"
        shop = Shop(BROKER_URL=url, TESTING_BROKER=True, SHUTDOWN_TIMEOUT=60)
        shop.enqueue("a", "b", "c")
        shop.events.publish()
        """,
    )

    assert done.returncode == 0
    assert "Dropped 3 events for q: process ended" in done.stderr
    assert "secret" not in done.stderr
    assert seconds_to_end(done) < DEADLINE


def test_what_is_under_way_has_the_shutdown_timeout_to_finish(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        shop = Shop(CONFIRM_TIMEOUT=0, SHUTDOWN_TIMEOUT=0.5)
        shop.silence()
        shop.enqueue("a")
        assert shop.events.publish().in_flight == 1
        """,
    )

    assert "Dropped 1 event for q: process ended" in done.stderr
    assert 0.4 < seconds_to_end(done) < DEADLINE


def test_all_apps_share_one_shutdown_timeout(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        shops = [Shop(CONFIRM_TIMEOUT=0, SHUTDOWN_TIMEOUT=1) for _ in range(8)]
        for shop in shops:
            shop.silence()
            shop.enqueue("a")
            shop.events.publish()
        """,
    )

    assert done.stderr.count("Dropped 1 event for q: process ended") == 8
    assert seconds_to_end(done) < 8


def test_an_app_that_only_the_main_function_knew_is_counted_at_the_end(
    tmp_path: Path,
) -> None:
    done = run_script(
        tmp_path,
        """
        import gc

        def main():
            shop = Shop()
            shop.faults.go_down()
            shop.enqueue("a")
            shop.events.publish()

        main()
        gc.collect()
        """,
    )

    assert done.returncode == 0
    assert "Dropped 1 event for q" in done.stderr


def test_receivers_hear_of_what_is_lost_at_the_end(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import flask
        from flask_eventcollector import events_dropped, events_discarded

        def receive(sender, events, reason, **extra):
            print(flask.current_app.name, len(events), reason)
            if "ended" in reason:
                shop.enqueue("too late")

        shop = Shop()
        events_dropped.connect(receive)
        events_discarded.connect(receive)
        shop.faults.go_down()
        shop.enqueue("a")
        shop.events.publish()
        shop.enqueue("b", "c")
        """,
    )

    assert "shop 2 never published" in done.stdout
    assert "shop 1 process ended" in done.stdout
    assert seconds_to_end(done) < DEADLINE


def test_the_exit_code_stays_what_it_was(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        shop = Shop()
        shop.enqueue("a")
        sys.exit(3)
        """,
    )

    assert done.returncode == 3


def test_a_script_that_fails_is_warned_about_the_lost_events(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        shop = Shop()
        shop.enqueue("a")
        raise ValueError("no")
        """,
    )

    assert done.returncode == 1
    assert "Discarded 1 event for q" in done.stderr


def test_a_child_that_ends_reports_only_its_own_events(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        shop = Shop()
        shop.enqueue("parent")
        child = os.fork()
        if child == 0:
            shop.enqueue("a", "b", queue="child")
            sys.exit()
        assert os.waitpid(child, 0)[1] == 0
        shop.events.publish()
        """,
        measured=False,
    )

    assert done.returncode == 0
    assert "Discarded 2 events for child" in done.stderr
    assert "for q" not in done.stderr


# An app that is garbage-collected.


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if name in thread.name]


def use_and_throw_away(use: Callable[[Shop], None], name: str) -> weakref.ref[Shop]:
    shop = Shop(name=name)
    use(shop)
    reference = weakref.ref(shop)
    del shop

    def is_gone() -> bool:
        gc.collect()
        return reference() is None

    # Its thread may be in the middle of a run.
    wait_until(is_gone, "the app is collected")
    return reference


def test_an_app_that_was_never_used_is_collected() -> None:
    assert use_and_throw_away(lambda shop: None, "unused")() is None


def test_an_unused_app_is_garbage_collected_and_its_threads_end() -> None:
    threads: list[threading.Thread] = []

    def use(shop: Shop) -> None:
        enqueue_and_publish(shop, "a")
        threads.extend(threads_of("thrown-away"))

    app = use_and_throw_away(use, "thrown-away")

    assert app() is None
    assert len(threads) == 1
    for thread in threads:
        thread.join(DEADLINE)
    assert threads_of("thrown-away") == []


def test_an_app_that_has_served_requests_is_collected() -> None:
    def use(shop: Shop) -> None:
        @shop.get("/<int:status>")
        def view(status: int) -> tuple[str, int]:
            shop.enqueue("a")
            return "body", status

        with shop.test_client() as client:
            client.get("/200")
            client.get("/500")

    assert use_and_throw_away(use, "served")() is None


@pytest.mark.parametrize("where", ["collected", "retained"])
def test_what_a_garbage_collected_app_held_is_counted_in_the_log(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    def use(shop: Shop) -> None:
        shop.faults.go_down()
        shop.enqueue("a", "b")
        if where == "retained":
            shop.events.publish()

    assert use_and_throw_away(use, where)() is None
    for thread in threads_of(where):
        thread.join(DEADLINE)

    word = "Dropped" if where == "retained" else "Discarded"
    assert f"{word} 2 events for q" in caplog.text


def test_one_garbage_collected_app_does_not_affect_the_others() -> None:
    with open_shop() as shop:
        use_and_throw_away(lambda other: other.enqueue("a"), "other")

        assert enqueue_and_publish(shop, "a") == 1
        assert books(shop.events) == {"confirmed": 1}
