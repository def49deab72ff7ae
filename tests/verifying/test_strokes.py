"""The strokes of a seed are always the same."""

from __future__ import annotations

from itertools import islice

from flask_eventcollector.verifying.network import FAULTS
from flask_eventcollector.verifying.strokes import (
    BROKER_RESTARTED,
    NETWORK,
    WORKER_KILLED,
    Stroke,
    strokes,
)


def some(seed: int, *, restarts: bool = True, number: int = 70) -> list[Stroke]:
    return list(islice(strokes(seed, restarts=restarts), number))


def test_a_seed_repeats_itself() -> None:
    assert some(7) == some(7)
    assert some(7) != some(8)


def test_every_fault_occurs_in_each_round() -> None:
    every = {*NETWORK, WORKER_KILLED, BROKER_RESTARTED}
    rounds = [some(1)[n : n + len(every)] for n in range(0, 70, len(every))]

    assert all({stroke.name for stroke in strokes} == every for strokes in rounds)
    assert len({tuple(s.name for s in strokes) for strokes in rounds}) > 1


def test_without_a_way_to_restart_it_the_broker_stays_up() -> None:
    names = {stroke.name for stroke in some(1, restarts=False)}
    assert names == {*NETWORK, WORKER_KILLED}


def test_each_fault_of_the_network_is_known() -> None:
    assert {*NETWORK} <= FAULTS.keys()


def test_workers_are_killed_alone_and_during_other_faults() -> None:
    found = some(2)

    alone = [s.victim for s in found if s.name == WORKER_KILLED]
    meanwhile = [s.victim for s in found if s.name in NETWORK]
    assert None not in alone
    assert {victim is None for victim in meanwhile} == {True, False}
    assert all(0 <= s.victim < 1 for s in found if s.victim is not None)


def test_the_broker_is_restarted_without_a_kill() -> None:
    assert {s.victim for s in some(3) if s.name == BROKER_RESTARTED} == {None}
