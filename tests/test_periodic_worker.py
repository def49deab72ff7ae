"""A daemon thread that runs background work periodically."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from flask_eventcollector.delivery.periodic_worker import TICK, PeriodicWorker
from tests.helpers import DEADLINE, wait_until


class Work:
    """Counts the runs; each may call back the test."""

    def __init__(
        self, act: Callable[[], float] = lambda: TICK, gather: float = 0.0
    ) -> None:
        self._act = act
        self.rounds = 0
        self.left = 0
        self.threads: set[threading.Thread] = set()
        self._changed = threading.Condition()
        self.flusher = PeriodicWorker(
            self._tend, self._leave, "the-flusher", gather=gather
        )

    def _tend(self) -> float:
        with self._changed:
            self.rounds += 1
            self.threads.add(threading.current_thread())
            self._changed.notify_all()
        return self._act()

    def _leave(self) -> None:
        with self._changed:
            self.left += 1
            self._changed.notify_all()

    def wait_for_rounds(self, number: int) -> None:
        self._wait_for(lambda: self.rounds >= number)

    def wait_for_the_end(self) -> None:
        self._wait_for(lambda: self.left > 0)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE)


def never() -> float:
    return float("inf")


@pytest.fixture
def no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent unrequested runs during a test."""
    monkeypatch.setattr(
        "flask_eventcollector.delivery.periodic_worker.TICK", 10 * DEADLINE
    )


def test_it_begins_with_a_round_at_once() -> None:
    work = Work()
    work.flusher.start()
    work.wait_for_rounds(1)
    assert work.flusher.stop(DEADLINE)


def test_a_second_start_does_nothing() -> None:
    work = Work()
    work.flusher.start()
    work.flusher.start()
    work.wait_for_rounds(1)
    assert work.flusher.stop(DEADLINE)
    assert len(work.threads) == 1


def test_its_thread_is_named_and_daemonic() -> None:
    work = Work()
    work.flusher.start()
    work.wait_for_rounds(1)
    (thread,) = work.threads
    assert (thread.name, thread.daemon) == ("the-flusher", True)
    assert work.flusher.stop(DEADLINE)
    assert not thread.is_alive()


@pytest.mark.usefixtures("no_tick")
def test_a_round_comes_when_it_is_woken() -> None:
    work = Work(never)
    work.flusher.start()
    for number in range(1, 10):
        work.wait_for_rounds(number)
        work.flusher.wake()
    assert work.flusher.stop(DEADLINE)


def test_a_round_comes_when_it_is_due() -> None:
    work = Work(lambda: 0.0)
    work.flusher.start()
    work.wait_for_rounds(5)
    assert work.flusher.stop(DEADLINE)


def test_a_round_comes_once_a_tick_even_if_nothing_is_ever_due() -> None:
    work = Work(never)
    work.flusher.start()
    work.wait_for_rounds(2)
    assert work.flusher.stop(DEADLINE)


@pytest.mark.usefixtures("no_tick")
def test_a_wake_during_a_round_asks_for_another() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> float:
        entered.set()
        go_on.wait(DEADLINE)
        return never()

    work = Work(hold)
    work.flusher.start()
    assert entered.wait(DEADLINE)
    work.flusher.wake()
    go_on.set()
    work.wait_for_rounds(2)
    assert work.flusher.stop(DEADLINE)


@pytest.mark.usefixtures("no_tick")
def test_wakes_are_gathered_for_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    slept, asked_for_more = list[float](), list[bool]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        work.flusher.wake()

    def note() -> float:
        asked_for_more.append(work.flusher._wake.is_set())
        return never()

    monkeypatch.setattr(
        "flask_eventcollector.delivery.periodic_worker.time",
        SimpleNamespace(sleep=sleep),
    )
    work = Work(note, gather=0.5)
    work.flusher.start()
    work.wait_for_rounds(1)
    work.flusher.wake()
    wait_until(lambda: len(asked_for_more) == 2, "the second round has come")
    assert work.flusher.stop(DEADLINE)
    assert slept[0] == 0.5
    assert asked_for_more[:2] == [False, False]


def test_a_failing_round_is_logged_and_does_not_end_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = Work(lambda: [][0])
    with caplog.at_level(logging.ERROR, "flask_eventcollector"):
        work.flusher.start()
        work.wait_for_rounds(2)
        assert work.flusher.stop(DEADLINE)
    assert "Background thread failed: the-flusher" in caplog.text


def test_it_leaves_once_after_its_last_round() -> None:
    work = Work()
    work.flusher.start()
    work.wait_for_rounds(1)
    assert work.flusher.stop(DEADLINE)
    assert work.flusher.stop(DEADLINE)
    assert work.left == 1


def test_stopping_waits_no_longer_than_its_timeout() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> float:
        entered.set()
        go_on.wait(DEADLINE)
        return TICK

    work = Work(hold)
    work.flusher.start()
    assert entered.wait(DEADLINE)
    assert not work.flusher.stop(0.01)
    go_on.set()
    assert work.flusher.stop(DEADLINE)


def test_it_can_be_stopped_before_it_has_started() -> None:
    work = Work()
    assert work.flusher.stop(0)


def test_a_stop_can_be_requested_without_waiting() -> None:
    work = Work()
    work.flusher.start()
    work.wait_for_rounds(1)
    work.flusher.request_stop()
    work.wait_for_the_end()


def test_it_can_stop_itself() -> None:
    work = Work(lambda: float(work.flusher.stop(DEADLINE)))
    work.flusher.start()
    work.wait_for_the_end()
    assert work.rounds == 1


def test_a_run_that_fails_each_time_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "flask_eventcollector.delivery.periodic_worker"
    monkeypatch.setattr(f"{module}.TICK", 0.01)
    texts = iter(range(1_000_000))

    def fail() -> float:
        raise OSError(f"no such file: {next(texts)}")

    work = Work(fail)
    with caplog.at_level(logging.ERROR, "flask_eventcollector"):
        work.flusher.start()
        work.wait_for_rounds(5)
        assert len(caplog.records) == 1
        monkeypatch.setattr(work.flusher, "_next_line", 0.0)
        work.wait_for_rounds(work.rounds + 5)
        assert len(caplog.records) == 2
    assert work.flusher.stop(DEADLINE)
