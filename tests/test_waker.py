"""The pipe that wakes the I/O thread."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from contextlib import suppress

import pytest

from flask_eventcollector.brokers.rabbitmq.waker import Waker
from tests.isolation.cuts import Cut, Knife


@pytest.fixture
def waker() -> Waker:
    waker = Waker()
    waker.open()
    return waker


def is_woken(waker: Waker) -> bool:
    readable, _, _ = select.select([waker.open()], [], [], 0)
    return bool(readable)


def test_it_wakes_once_for_many_calls(waker: Waker) -> None:
    for _ in range(100_000):
        waker.wake()
    assert is_woken(waker)
    waker.clear()
    assert not is_woken(waker)


def test_a_call_that_a_signal_handler_interrupts_keeps_back_no_later_one() -> None:
    with Knife() as whole:
        waker = Waker()
        waker.open()
        waker.wake()
    for at in range(1, whole.count + 1):
        waker = Waker()
        waker.open()
        with suppress(Cut), Knife(at):
            waker.wake()
        waker.wake()
        assert is_woken(waker), at


def test_before_it_is_open_there_is_no_thread_to_wake() -> None:
    Waker().wake()


def test_a_call_between_reading_and_clearing_is_not_the_last_one(
    waker: Waker, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.read

    def read_and_be_called(descriptor: int, size: int) -> bytes:
        content = read(descriptor, size)
        # A call now is noticed, since the I/O thread has not checked yet.
        waker.wake()
        return content

    waker.wake()
    monkeypatch.setattr(os, "read", read_and_be_called)
    waker.clear()
    monkeypatch.undo()
    waker.wake()
    assert is_woken(waker)


def test_a_wake_up_that_is_cut_short_is_not_taken_for_done(
    waker: Waker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> int:
        raise SystemExit

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(SystemExit):
        waker.wake()
    monkeypatch.undo()
    waker.wake()
    assert is_woken(waker)


def test_it_is_open_until_the_very_end_of_the_process() -> None:
    code = (
        "import atexit\n"
        "from flask_eventcollector.brokers.rabbitmq.waker import Waker\n"
        "waker = Waker()\n"
        "atexit.register(waker.wake)\n"
        "waker.open()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")
