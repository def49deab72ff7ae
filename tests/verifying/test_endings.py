"""A run is ended by signals, and by its deadline."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from flask_eventcollector.verifying.endings import Interrupted, ending

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


@pytest.fixture(autouse=True)
def _handlers_are_restored() -> Iterator[None]:
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_the_first_interrupt_ends_only_the_load() -> None:
    with ending(60) as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()


def test_the_second_one_ends_it_at_once() -> None:
    with ending(60):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted, match="it was interrupted twice"):
            signal.raise_signal(signal.SIGINT)


def test_so_does_sigterm() -> None:
    with pytest.raises(Interrupted, match="it was told to end"), ending(60):
        signal.raise_signal(signal.SIGTERM)


def test_so_does_the_end_of_its_time() -> None:
    with pytest.raises(Interrupted, match="it took more than 0 s"), ending(0.05):
        time.sleep(20)


def test_nothing_disturbs_what_is_cleaned_up() -> None:
    with ending(60):
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
