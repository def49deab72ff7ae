"""A herd of processes whose broker comes back, simulated."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import comeback
from flask_eventcollector.brokers.rabbitmq.pacing import LONGEST_PAUSE
from flask_eventcollector.delivery.periodic_worker import TICK
from flask_eventcollector.stores.spool.siblings import SPREAD

#: How many connections RabbitMQ lets wait to be accepted, by default.
BACKLOG = 128


@pytest.mark.parametrize("outage", [5, 75, 600])
def test_processes_in_use_are_back_soon_but_not_together(outage: float) -> None:
    found = comeback.simulate(outage, busy=1)

    assert found.last <= LONGEST_PAUSE
    assert found.half <= 1
    assert found.peak_hundredth < BACKLOG / 4


def test_idle_processes_keep_their_backoff() -> None:
    found = comeback.simulate()

    assert found.half > 10
    assert found.peak < comeback.PROCESSES / 10


@pytest.mark.parametrize("siblings", [10, comeback.PROCESSES])
def test_siblings_follow_the_first_soon_but_not_together(siblings: int) -> None:
    found = comeback.simulate(busy=1, siblings=siblings)

    assert found.last <= LONGEST_PAUSE + TICK + SPREAD
    assert found.peak < comeback.PROCESSES
    assert found.peak_hundredth < BACKLOG / 4


def test_the_documented_table_is_the_simulated_one() -> None:
    assert comeback.table() in Path("docs/deployment.md").read_text(encoding="utf-8")
