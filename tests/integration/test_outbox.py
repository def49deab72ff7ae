"""The outbox with RabbitMQ and real databases, while processes are killed.

`OUTBOX_KILLS=100` runs the long form, in which the database and RabbitMQ are killed,
too, and processes are frozen.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.helpers import DEADLINE, freeze, unmeasured, wait_until
from tests.integration.outbox_place import (
    DATABASES,
    Comparison,
    Place,
    open_place,
)
from tests.integration.outbox_shop import LEASE

pytestmark = pytest.mark.rabbitmq

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("OUTBOX_KILLS", "0"))
#: Worker processes at a time.
WORKERS = 3


@pytest.fixture(params=DATABASES)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, queue_name: str
) -> Iterator[Place]:
    with open_place(request, tmp_path, queue_name, is_killed=bool(KILLS)) as place:
        yield place


class Worker:
    """A process that places orders until it is killed."""

    def __init__(self, place: Place, label: str) -> None:
        program = [sys.executable, "-m", "tests.integration.outbox_shop"]
        self._process = subprocess.Popen(
            [*program, place.url, place.broker.url, place.queue, label],
            cwd=ROOT,
            env=unmeasured() | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run_for(self, seconds: float) -> None:
        """Wait until it works, and *seconds* more."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        time.sleep(seconds)

    def freeze(self) -> None:
        freeze(self._process.pid)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def kill_in_turn(place: Place, kills: int, disturb: Callable[[Worker], None]) -> None:
    """Let workers work, and kill each at a random moment."""
    new = (Worker(place, f"{number}") for number in range(kills))
    running = deque(islice(new, WORKERS))
    try:
        while running:
            running[0].run_for(random.uniform(0, 0.4))
            disturb(running[0])
            running.popleft().kill()
            running.extend(islice(new, 1))
    finally:
        for worker in running:
            worker.kill()


class Disturbances:
    """What else is killed in the long form, one after the other."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._turns = 0

    def __call__(self, worker: Worker) -> None:
        self._turns += 1
        if not KILLS:
            return
        if self._turns % 10 == 3:
            worker.freeze()
            time.sleep(LEASE * random.uniform(0.5, 3))
            worker.thaw()
            time.sleep(random.uniform(0, 1))
        elif self._turns % 10 == 6 and self._place.database is not None:
            self._place.database.kill()
            time.sleep(random.uniform(0, 2 * LEASE))
            self._place.database.start()
        elif self._turns % 10 == 9:
            self._place.broker.kill()
            time.sleep(random.uniform(0, 2 * LEASE))
            self._place.broker.start()


@pytest.mark.slow
def test_what_is_committed_is_sent_though_processes_are_killed(place: Place) -> None:
    with place.shop() as last:
        last.create_tables()
        kill_in_turn(place, KILLS or 5, Disturbances(place))
        began, left = time.monotonic(), last.rows()
        # It has its first request, and takes over what all others have left.
        last.app.test_client().get("/")
        wait_until(lambda: not last.rows(), "all rows are sent and erased")
        seconds = time.monotonic() - began
        assert last.events.flush(DEADLINE)
        found = Comparison(last.orders(), place.broker.get_all(place.queue))

    sys.stdout.write(f"{found}; {left} rows left, sent within {seconds:.1f} s\n")
    assert found.orders
    assert not found.ghosts
    assert not found.lost
    assert not found.unmarked
    assert len(found.ids) == len(found.orders)
