"""Simulates how a herd of processes reconnects when the broker comes back.

Run ``python -m benchmarks.comeback``. It needs no broker: the library's own code paces
the attempts, over a clock that jumps from one to the next, and with a fixed seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from flask_eventcollector.brokers.rabbitmq.pacing import Pacing
from flask_eventcollector.delivery.backoff import full_jitter
from flask_eventcollector.delivery.broker import IN_USE
from flask_eventcollector.delivery.periodic_worker import TICK
from flask_eventcollector.delivery.signal import Signal
from flask_eventcollector.stores.spool.siblings import SPREAD

PROCESSES = 500
#: How many of them share a spool folder, and so a host.
SIBLINGS = 10
#: What the rows of the table are called; of how many in a folder, how many are in use.
KINDS = [
    ("publishing", 1, 1),
    ("idle", 0, 1),
    (f"{SIBLINGS} siblings, one publishing", 1, SIBLINGS),
    (f"{SIBLINGS} siblings, idle", 0, SIBLINGS),
    (f"{PROCESSES} siblings, idle", 0, PROCESSES),
]
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
    """A signal that nobody sets: to wait for it only moves the time.

    At one moment it makes a call, which may set it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.calls_at = float("inf")
        self.call: Callable[[], object] = lambda: None

    def wait(self, timeout: float) -> bool:
        end = self.now + max(0.0, timeout)
        if self.calls_at <= end:
            self.now, self.calls_at = max(self.now, self.calls_at), float("inf")
            self.call()
            if super().wait(0):
                return True
        self.now = end
        return False


class Process(NamedTuple):
    """One process, which makes the same random choices in each simulation."""

    seed: int
    #: Whether it is in use during the whole outage.
    busy: bool

    def back(self, outage: float, told: float = float("inf")) -> float:
        """Seconds from the broker's return to the first attempt after it.

        :param told: seconds after which a sibling tells it.
        """
        clock, failures = Clock(), 1
        uniform = random.Random(self.seed).random
        delay = partial(full_jitter, base=DELAY, cap=MAX_DELAY, uniform=uniform)
        pacing = Pacing(delay, signal=clock, clock=lambda: clock.now, uniform=uniform)
        clock.calls_at, clock.call = outage + told, lambda: pacing.retry_soon(IN_USE)
        while clock.now < outage:
            pacing.begin()
            if self.busy:
                pacing.retry_soon(outage)
            pacing.pause(failures)
            failures += 1
        return clock.now - outage


def together(processes: Sequence[Process], outage: float) -> list[float]:
    """Seconds until each of the *processes* is back; the first one tells the others."""
    first = min(process.back(outage) for process in processes)
    uniform = random.Random(processes[0].seed).random
    return [
        process.back(outage, first + uniform() * TICK + uniform() * SPREAD)
        for process in processes
    ]


def simulate(
    outage: float = OUTAGE, *, busy: int = 0, siblings: int = 1, total: int = PROCESSES
) -> Comeback:
    """Let processes lose the broker in one instant, for *outage* seconds.

    :param busy: how many of each *siblings*, which share a folder, are in use.
    """
    back: list[float] = []
    for seed in range(0, total, siblings):
        numbers = range(siblings)
        back += together([Process(seed + n, n < busy) for n in numbers], outage)
    back.sort()
    return Comeback(
        peak=max(Counter(int(moment) for moment in back).values()),
        peak_hundredth=max(Counter(int(moment * 100) for moment in back).values()),
        half=back[total // 2],
        last=back[-1],
    )


def table() -> str:
    """The table of docs/deployment.md."""
    lines = [
        f"| {PROCESSES} processes | outage | peak, connections/s | peak, in 10 ms"
        " | half back, s | all back, s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, busy, siblings in KINDS:
        for outage in (5.0, OUTAGE, 600.0):
            found = simulate(outage, busy=busy, siblings=siblings)
            lines.append(
                f"| {name} | {outage:.0f} s | {found.peak}"
                f" | {found.peak_hundredth} | {found.half:.1f} | {found.last:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
