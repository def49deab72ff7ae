"""Simulates how a herd of processes reconnects when the broker comes back.

Run ``python -m benchmarks.comeback``. It needs no broker: the library's own code paces
the attempts, over a clock that jumps from one to the next, and with a fixed seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from flask_eventcollector.brokers.rabbitmq.pacing import Pacing
from flask_eventcollector.delivery.backoff import full_jitter
from flask_eventcollector.delivery.signal import Signal

PROCESSES = 500
#: Seconds, and the defaults of RETRY_DELAY and RETRY_MAX_DELAY.
OUTAGE, DELAY, MAX_DELAY = 75.0, 1.0, 60.0


class Comeback(NamedTuple):
    """How a herd returns."""

    #: The most connections in any second, and in any hundredth, after the return.
    peak: int
    peak_hundredth: int
    #: Seconds until half of the processes, and all, are back.
    half: float
    last: float


class Clock(Signal):
    """A signal that nobody sets: to wait for it only moves the time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def wait(self, timeout: float) -> bool:
        self.now += max(0.0, timeout)
        return False


def first_success(outage: float, *, busy: bool, uniform: Callable[[], float]) -> float:
    """Seconds from the broker's return to a process's first attempt after it."""
    clock, failures = Clock(), 1
    delay = partial(full_jitter, base=DELAY, cap=MAX_DELAY, uniform=uniform)
    pacing = Pacing(delay, signal=clock, clock=lambda: clock.now, uniform=uniform)
    while clock.now < outage:
        pacing.begin()
        if busy:
            pacing.retry_soon(outage)
        pacing.pause(failures)
        failures += 1
    return clock.now - outage


def simulate(
    processes: int = PROCESSES, outage: float = OUTAGE, *, busy: bool
) -> Comeback:
    """Let *processes* lose the broker in one instant, for *outage* seconds."""
    uniform = random.Random(1).random
    back = sorted(
        first_success(outage, busy=busy, uniform=uniform) for _ in range(processes)
    )
    return Comeback(
        peak=max(Counter(int(moment) for moment in back).values()),
        peak_hundredth=max(Counter(int(moment * 100) for moment in back).values()),
        half=back[processes // 2],
        last=back[-1],
    )


def table() -> str:
    """The table of docs/deployment.md."""
    lines = [
        f"| {PROCESSES} processes | outage | peak, connections/s | peak, in 10 ms"
        " | half back, s | all back, s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for busy in (True, False):
        for outage in (5.0, OUTAGE, 600.0):
            found = simulate(outage=outage, busy=busy)
            lines.append(
                f"| {'publishing' if busy else 'idle'} | {outage:.0f} s | {found.peak}"
                f" | {found.peak_hundredth} | {found.half:.1f} | {found.last:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
