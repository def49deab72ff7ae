"""Random faults: a seed repeats them, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.faults.rig import Rig
from tests.faults.soak import FAULTS, WORKER_FAULTS, plan, soak, strokes_in
from tests.rabbitmq import RabbitMQNode


def test_a_seed_gives_the_same_strokes_each_time() -> None:
    assert plan(7, 50) == plan(7, 50)
    assert plan(7, 50) != plan(8, 50)


def test_a_longer_soak_begins_as_a_shorter_one() -> None:
    assert plan(7, 50)[:20] == plan(7, 20)


def test_every_fault_occurs() -> None:
    strokes = plan(1, 500)
    assert {stroke.fault for stroke in strokes} == set(FAULTS)
    assert {stroke.worker for stroke in strokes} == {None, *WORKER_FAULTS}


def test_a_soak_has_at_least_one_stroke() -> None:
    assert strokes_in(0.001) == 1
    assert strokes_in(5) == 60


@pytest.mark.slow
def test_nothing_is_lost_except_in_killed_processes(
    private_rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    row = soak(seed=7)
    with Proxy(private_rabbitmq.port) as proxy:
        figures = row.run(Rig(private_rabbitmq, proxy, folder=tmp_path), row.short)
    assert figures.broken == []
