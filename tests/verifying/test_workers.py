"""Workers serve requests, are killed and replaced, and end with their parent."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from flask_eventcollector.verifying import side_file, workers
from flask_eventcollector.verifying.load import post
from flask_eventcollector.verifying.worker import (
    EVENTS,
    Job,
    create_app,
    process_of,
    read_job,
)
from flask_eventcollector.verifying.workers import WorkerFailed, Workers
from tests.helpers import DEADLINE, wait_until

MEMORY = {"EVENTCOLLECTOR_BROKER_URL": "memory://"}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Workers]:
    def new(number: int = 1, **settings: object) -> Workers:
        return Workers(number, MEMORY | settings, "orders", tmp_path)

    return new


def app_in(folder: Path) -> tuple[object, Path]:
    notes = folder / "side-file"
    return create_app(Job(MEMORY, "orders", str(notes), 0)), notes


# The app.


def test_each_event_is_noted_before_and_after(tmp_path: Path) -> None:
    app, notes = app_in(tmp_path)

    answer = app.test_client().post("/orders/7")  # type: ignore[attr-defined]

    assert answer.status_code == 201
    assert set(answer.json) == side_file.read(notes).keys()
    assert side_file.read(side_file.confirmed_in(notes)).keys() == set(answer.json)
    assert len(answer.json) == EVENTS


def test_what_a_refused_request_has_enqueued_is_not_noted(tmp_path: Path) -> None:
    app, notes = app_in(tmp_path)
    client = app.test_client()  # type: ignore[attr-defined]

    assert client.post("/orders/7/refused").status_code == 409

    assert not notes.exists()
    assert client.get("/stats").json["discarded"] == 1


def test_a_job_is_read_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    job = Job(MEMORY, "orders", "/side-file", 3)
    text = io.StringIO(json.dumps(asdict(job)) + "\n")
    monkeypatch.setattr("sys.stdin", text)

    assert read_job() == job


# The processes.


def test_they_serve_requests_and_end_in_order(make: Callable[..., Workers]) -> None:
    with make(2) as some:
        answer = post(some.port, "/orders/1", DEADLINE)
        assert answer.ok
        assert {process_of(key) for key in answer.keys} <= some.pids
        assert some.stats()["pid"] in some.pids
        processes = list(some._running)
        some.end()
    assert [process.returncode for process in processes] == [0, 0]


def test_one_is_killed_and_replaced(make: Callable[..., Workers]) -> None:
    with make() as some:
        (before,) = some.pids
        some.kill_one(0.99)
        (after,) = some.pids

        assert some.killed == {before}
        assert after != before
        assert post(some.port, "/orders/1", DEADLINE).ok


def test_one_that_ends_on_its_own_is_noticed(make: Callable[..., Workers]) -> None:
    with make() as some:
        some.check()
        process = some._running[0]
        process.kill()
        process.wait()
        with pytest.raises(WorkerFailed, match=r"a worker ended with -9"):
            some.check()


def test_one_that_does_not_start_says_why(make: Callable[..., Workers]) -> None:
    settings = {"EVENTCOLLECTOR_BACKLOG": "attic"}
    with (
        pytest.raises(WorkerFailed, match=r"did not start: (.|\n)*BACKLOG"),
        make(**settings),
    ):
        pass


def test_one_that_is_silent_is_not_waited_for(
    make: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_START", 0.0)
    with pytest.raises(WorkerFailed, match="did not start within 0 s"), make():
        pass


def test_one_ends_once_its_parent_is_gone(make: Callable[..., Workers]) -> None:
    with make() as some:
        (process,) = some._running
        assert process.stdin is not None
        process.stdin.close()
        wait_until(lambda: process.poll() is not None, "its end")
        assert process.returncode == -signal.SIGKILL


def test_without_any_nobody_answers(make: Callable[..., Workers]) -> None:
    some = make()
    port = some.port
    some._listener.close()
    assert not post(port, "/orders/1", 1).ok
