"""What a breaker of the circuit tells of a failure."""

from __future__ import annotations

from flask_eventcollector.stores.circuit_breaker import CircuitBreaker


def test_what_a_driver_says_in_several_lines_is_told_in_one() -> None:
    breaker = CircuitBreaker("outbox", store="outbox")
    breaker.record_failure(OSError("refused\n\tIs the server running?"))
    assert breaker.problem is not None
    assert breaker.problem.text == "refused Is the server running?"
