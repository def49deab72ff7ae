"""Ratios, goals, tables and plots of made-up values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import enqueue_cost, plots
from benchmarks.enqueue_cost import DUMPS, OURS, UNIT
from benchmarks.goals import Goal, goals
from benchmarks.report import Report
from benchmarks.results import (
    Case,
    Job,
    Key,
    Results,
    Spread,
    Unavailable,
    turns,
)
from tests.rabbitmq import RabbitMQNode

CASE = Case("one thread", "256 B")


def key(contestant: str, unit: str = UNIT) -> Key:
    return Key("enqueue-cost", CASE, contestant, unit)


def results() -> Results:
    return Results({key(DUMPS): [1.0, 2.0, 4.0], key(OURS): [3.0, 4.0, 12.0]})


def report(version: str = "3.10.8") -> Report:
    return Report(
        [enqueue_cost.BENCHMARK], results(), version, rounds=3, quick=True, load=0.25
    )


def test_a_ratio_is_of_values_of_the_same_round() -> None:
    assert results().ratio(key(OURS), key(DUMPS)) == Spread(3, 2, 3)


def test_there_is_no_ratio_to_what_was_not_measured() -> None:
    assert results().ratio(key(OURS), key("another")) is None


def test_a_table_has_medians_with_their_spread_and_the_ratio() -> None:
    table = next(report().tables())

    assert table.rows[1] == [
        "one thread, 256 B",
        OURS,
        "4.00 (3.00–12.0)",
        "3.00 (2.00–3.00)",
    ]


def test_goals_that_were_measured_are_shown() -> None:
    [row] = report().goals().rows

    assert list(row[1:]) == ["≤ 3", "3.00 (2.00–3.00)", "yes"]


def test_a_goal_may_differ_from_rabbitmq_4_on() -> None:
    goal = Goal("throughput", lambda _: None, 0.9, least_on_4=0.7)

    assert [goal.bound(version) for version in ("3.10.8", "4.0.5")] == [
        "≥ 0.9",
        "≥ 0.7",
    ]
    assert goal.is_reached(Spread(0.8, 0.8, 0.8), "3.10.8") == "no"
    assert goal.is_reached(Spread(0.8, 0.8, 0.8), "4.0.5") == "yes"


@pytest.mark.parametrize(
    "goal", [Goal("", lambda _: None, least=2), Goal("", lambda _: None, most=2)]
)
def test_a_goal_is_unclear_where_rounds_contradict_each_other(goal: Goal) -> None:
    assert goal.is_reached(Spread(1.9, 1, 2.1), "3.10.8") == "unclear"


def test_each_goal_is_about_what_the_full_form_measures() -> None:
    measured = Results()
    for benchmark in command.BENCHMARKS.values():
        for job in benchmark.jobs(False):
            for place, unit in product(job.places.values(), benchmark.units):
                case, contestant = place
                measured.add(Key(benchmark.name, case, contestant, unit), 1)

    unknown = [goal.text for goal in goals() if goal.figure(measured) is None]

    assert not unknown


def test_json_has_all_values() -> None:
    document = json.loads(report().as_json())

    assert document["values"][0] == {
        "benchmark": "enqueue-cost",
        "case": {"group": "one thread", "at": "256 B"},
        "contestant": DUMPS,
        "unit": UNIT,
        "values": [1.0, 2.0, 4.0],
    }
    assert document["goals"][0]["reached"] == "yes"


def test_tables_are_written_for_the_pages(tmp_path: Path) -> None:
    report().write_tables(tmp_path)

    written = (tmp_path / "figures.inc").read_text()
    assert f"\n\n| case | contestant | {UNIT} | beside {DUMPS} |\n| --- |" in written
    assert "≤ 3" in (tmp_path / "goals.inc").read_text()
    about = (tmp_path / "about.inc").read_text()
    assert "3 rounds" in about
    assert "load average before it 0.2" in about


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    plots.plot(enqueue_cost.BENCHMARK, results(), tmp_path)

    assert "<svg" in (tmp_path / "enqueue-cost.svg").read_text()


def test_without_matplotlib_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise Unavailable("Matplotlib is not installed")

    monkeypatch.setattr(command, "load_pyplot", missing)

    with pytest.raises(SystemExit):
        command.main(["--plots", "somewhere"])

    assert "--plots: Matplotlib is not installed" in capsys.readouterr().err


def test_contestants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "private_broker", stub_of_a_broker)
    turns: list[str] = []

    def job(name: str) -> Job:
        return Job.of_one(CASE, name, lambda _: {UNIT: float(len(turns))})

    command.run_rounds("x", [job("a"), job("b")], 2, Results(), turns.append)

    assert [turn[-1] for turn in turns] == ["a", "b", "a", "b"]


def test_what_takes_minutes_has_one_turn() -> None:
    short = Job.of_one(CASE, "short", lambda _: {})
    long = replace(short, contestants=("long",), once=True)

    assert [job.contestants[0] for job in turns([short, long], 3)] == [
        "short",
        "long",
        "short",
        "short",
    ]


def test_steps_of_one_contestant_are_places_on_the_axis() -> None:
    job = Job(Case("rows", ""), ("ours",), lambda _: {"2/2": {UNIT: 7}}, ("1/2", "2/2"))
    found = Results()

    with stub_of_a_broker() as node:
        command.run_job("x", job, node, found)

    assert found.values == {Key("x", Case("rows", "2/2"), "ours", UNIT): [7]}


def test_a_name_selects_what_begins_with_it() -> None:
    chosen = [benchmark.name for benchmark in command.chosen(["outbox", "start-up"])]

    assert "start-up" in chosen
    assert {name for name in command.BENCHMARKS if "outbox" in name} < {*chosen}
    assert "outage-cost" not in chosen


def test_the_versions_of_databases_are_shown() -> None:
    shown = replace(report(), databases={"PostgreSQL": "15.18"}).about()

    assert shown.startswith("RabbitMQ 3.10.8, PostgreSQL 15.18, Python")


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "private_broker", stub_of_a_broker)
    found = Results()

    def fail(_: RabbitMQNode) -> Mapping[str, float]:
        raise Unavailable("node is not installed")

    command.run_rounds("x", [Job.of_one(CASE, "peer", fail)], 2, found, lambda _: None)

    assert found.skipped == {f"peer, {CASE.group}": "node is not installed"}
    assert not found.values


@contextmanager
def stub_of_a_broker() -> Iterator[Any]:
    yield SimpleNamespace(version="3.10.8")
