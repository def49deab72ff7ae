"""The delays before the next retry."""

import random

from hypothesis import given
from hypothesis import strategies as st

from flask_eventcollector.delivery.backoff import full_jitter

failures = st.integers(min_value=0, max_value=10**6)


def longest(number: int, base: float = 1.0, cap: float = 60.0) -> float:
    return full_jitter(number, base, cap, uniform=lambda: 1.0)


def test_the_longest_delay_doubles_with_each_failure() -> None:
    assert [longest(n) for n in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 8.0]


def test_the_delay_ends_at_the_cap() -> None:
    assert [longest(n) for n in (6, 7, 8)] == [32.0, 60.0, 60.0]


def test_the_cap_holds_for_the_first_delay_too() -> None:
    assert longest(1, base=5, cap=2) == 2


def test_the_delay_may_be_anything_down_to_nothing() -> None:
    assert full_jitter(5, 1.0, 60.0, uniform=lambda: 0.0) == 0
    assert full_jitter(2, 1.0, 60.0, uniform=lambda: 0.25) == 0.5


@given(failures, st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_delay_is_between_nothing_and_the_cap(
    number: int, base: float, cap: float
) -> None:
    assert 0 <= full_jitter(number, base, cap) <= cap


@given(failures)
def test_more_failures_never_shorten_the_longest_delay(number: int) -> None:
    assert longest(number) <= longest(number + 1)


def test_two_processes_wait_for_different_times() -> None:
    one, other = random.Random(1), random.Random(2)
    assert full_jitter(3, 1, 60, one.random) != full_jitter(3, 1, 60, other.random)
