"""What a run comes to: its figures, its table and its verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from flask_eventcollector.verifying.load import Answer
from flask_eventcollector.verifying.oracle import Copy
from flask_eventcollector.verifying.report import (
    Evidence,
    Figures,
    as_rows,
    judge,
    verdict,
)

#: Keys of the processes 11 and 12.
A, B, C = "1-11-ab.0", "1-11-ab.1", "2-12-cd.0"


def answered(*keys: str, status: int = 201, seconds: float = 0.01) -> Answer:
    return Answer("/orders/1", status, seconds, keys)


def came(*keys: str, id: str = "1", marked: bool = False) -> list[Copy]:
    return [Copy(key, id, marked) for key in keys]


#: All was acknowledged, and came once.
SOUND = Evidence(
    answers=[answered(A, B), answered(C), answered(status=409)],
    attempted={A, B, C},
    confirmed={A, B, C},
    dropped=(),
    on_disk=(),
    arrived=came(A, B, C),
    killed=(),
    strokes=MappingProxyType({"worker killed": 2, "connections cut": 1}),
    delivered_after=1.25,
    lasted=120.0,
)


def figures(*, in_memory: bool = False, **changed: Any) -> Figures:
    return judge(replace(SOUND, **changed), in_memory=in_memory)


def test_what_came_once_is_as_promised() -> None:
    found = figures()

    assert (found.attempts, found.acknowledged, found.requests) == (3, 3, 3)
    assert not any((found.lost, found.duplicated, found.recovered, found.failed))
    assert found.is_kept
    assert not found.is_left
    assert verdict(found).startswith("Kept: ")


def test_what_neither_came_nor_waits_is_lost() -> None:
    found = figures(arrived=came(A, B))

    assert found.lost == 1
    assert not found.is_kept
    assert verdict(found) == "Broken: 1 lost."


def test_what_waits_on_disk_is_not_lost_but_left() -> None:
    found = figures(arrived=came(A, B), on_disk={C}, delivered_after=None)

    assert (found.lost, found.on_disk) == (0, 1)
    assert found.is_kept
    assert found.is_left
    assert verdict(found).startswith("Nothing is lost, but not everything")


def test_what_was_reported_as_dropped_is_told_apart() -> None:
    found = figures(arrived=came(A, B), dropped={C})

    assert (found.lost, found.dropped) == (0, 1)
    assert found.is_left


def test_the_memory_of_a_killed_process_may_be_lost() -> None:
    gone: dict[str, Any] = {"arrived": came(A), "confirmed": {A}, "killed": {11}}
    found = figures(in_memory=True, **gone)

    assert found.lost_with_process == 1, "the one of process 11"
    assert found.lost == 1, "the one of process 12, which lives"
    assert figures(**gone).lost == 2, "the spool loses nothing"


def test_what_was_reported_as_published_may_not_be_lost() -> None:
    found = figures(in_memory=True, arrived=came(A, C), killed={11})

    assert (found.lost, found.lost_with_process) == (1, 0)


def test_memory_that_lost_something_is_named() -> None:
    found = figures(in_memory=True, arrived=came(A, C), confirmed=(), killed={11})

    assert found.is_kept
    assert "1 lost with a killed worker, whose backlog was in memory" in verdict(found)


def test_a_second_copy_must_be_marked() -> None:
    marked = figures(arrived=[*SOUND.arrived, *came(A, marked=True)])
    plain = figures(arrived=[*SOUND.arrived, *came(A)])

    assert (marked.duplicated, marked.unmarked, marked.is_kept) == (1, 0, True)
    assert (plain.duplicated, plain.unmarked, plain.is_kept) == (1, 1, False)
    assert verdict(plain) == "Broken: 1 duplicated without a mark."


def test_what_was_not_to_be_sent_is_unexpected() -> None:
    found = figures(arrived=[*SOUND.arrived, *came("3-11-ef.refused")])

    assert (found.unexpected, found.is_kept) == (1, False)
    assert verdict(found) == "Broken: 1 unexpected."


def test_what_came_without_a_response_is_recovered() -> None:
    answers = [answered(A, B), answered(status=0)]
    found = figures(answers=answers)

    assert (found.recovered, found.failed, found.acknowledged) == (1, 1, 2)
    assert found.is_kept


def test_a_request_that_is_refused_as_it_should_be_has_not_failed() -> None:
    answers = [answered(A, B, C), answered(status=409), answered(status=500)]

    assert figures(answers=answers).failed == 1


def test_times_are_those_of_all_requests() -> None:
    answers = [answered(A, seconds=0.1), answered(B, C, seconds=0.3)]
    found = figures(answers=answers)

    assert found.slowest == 0.3
    assert found.median == pytest.approx(0.2)


def test_a_single_request_has_times_too() -> None:
    found = figures(answers=[answered(A, B, C, seconds=0.2)])

    assert found.slowest == found.p99 == found.median == 0.2


def test_the_table_has_what_is_rare_only_if_it_is_there() -> None:
    usual = [name for name, _, _ in as_rows(figures())]
    names = [name for name, _, _ in as_rows(figures(arrived=came(A), on_disk={B}))]

    assert usual[:3] == ["attempts", "acknowledged", "lost"]
    assert {"on disk", "dropped"} & {*usual} == set()
    assert "on disk" in names


def test_the_table_ends_with_strokes_and_times() -> None:
    rows = {name: (number, about) for name, number, about in as_rows(figures())}

    assert rows["strokes"] == ("3", "faults")
    assert rows["  connections cut"] == ("1", "")
    assert rows["  worker killed"] == ("2", "")
    assert rows["slowest"] == ("10 ms", "request; p99 10 ms, median 10 ms")
    assert rows["delivered"][0] == "1.2 s"
    late = {name: number for name, number, _ in as_rows(figures(delivered_after=None))}
    assert late["delivered"] == "no"


def test_machines_get_plain_values() -> None:
    found = figures().as_dict()

    assert json.loads(json.dumps(found)) == found
    assert found["strokes"] == {"worker killed": 2, "connections cut": 1}
    assert (found["lost"], found["delivered_after"]) == (0, 1.25)
