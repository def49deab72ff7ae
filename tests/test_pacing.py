"""The pauses between two attempts to connect."""

from __future__ import annotations

import pytest

from benchmarks.comeback import Clock
from flask_eventcollector.brokers.rabbitmq.pacing import (
    LEAST_PAUSE,
    LONGEST_PAUSE,
    Pacing,
)
from flask_eventcollector.delivery.signal import Signal


def pacing(clock: Clock, delay: float) -> Pacing:
    return Pacing(lambda failures: delay, signal=clock, clock=lambda: clock.now)


def pauses(clock: Clock, paced: Pacing, number: int) -> list[float]:
    found = []
    for failures in range(number):
        began = clock.now
        paced.begin()
        paced.pause(failures + 1)
        found.append(clock.now - began)
    return found


def test_an_idle_process_keeps_its_backoff() -> None:
    clock = Clock()

    assert pauses(clock, pacing(clock, 30), 3) == [30, 30, 30]


def test_a_process_in_use_tries_about_once_a_second() -> None:
    clock = Clock()
    paced = pacing(clock, 30)

    paced.retry_soon(60)

    for pause in pauses(clock, paced, 30):
        assert LEAST_PAUSE <= pause <= LONGEST_PAUSE


def test_something_to_send_ends_the_pause_of_an_idle_process() -> None:
    class UsedWhileIdle(Clock):
        def wait(self, timeout: float) -> bool:
            if timeout <= LONGEST_PAUSE:
                return super().wait(timeout)
            paced.retry_soon(10)
            ended.append(Signal.wait(self, 0))
            return ended[-1]

    ended: list[bool] = []
    clock = UsedWhileIdle()
    paced = pacing(clock, 30)

    paced.pause(1)

    assert ended == [True]


def test_after_its_last_use_it_returns_to_its_backoff() -> None:
    clock = Clock()
    paced = pacing(clock, 30)

    paced.retry_soon(10)

    assert 6 <= pauses(clock, paced, 20).index(30) <= 10


def test_a_short_use_does_not_end_a_longer_one() -> None:
    clock = Clock()
    paced = pacing(clock, 30)

    paced.retry_soon(60)
    paced.retry_soon(1)

    assert max(pauses(clock, paced, 20)) <= LONGEST_PAUSE


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_a_shorter_backoff_holds_in_use_too(delay: float) -> None:
    clock = Clock()
    paced = pacing(clock, delay)

    paced.retry_soon(60)

    assert pauses(clock, paced, 2) == [delay, delay]
