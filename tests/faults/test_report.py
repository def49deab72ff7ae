"""The command that runs the rows, and its output."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.faults import __main__ as command
from tests.faults.figures import Figures
from tests.faults.hosts import KINDS, Kind
from tests.faults.report import Report, problems
from tests.faults.rig import BASELINE, MODES, NAIVE_OUTBOX, Rig
from tests.faults.rows import ROWS, Row
from tests.faults.runner import Result, Task, plan, run_all
from tests.rabbitmq import RabbitMQNode


class Node:
    """A stub of a node that never fails."""

    port = 1
    version = "3.10.8"

    def restore(self) -> None:
        pass


def make_row(figures: Figures | Exception, number: int = 90, **more: Any) -> Row:
    """A row that finds *figures*, or that can't be finished."""

    def act(rig: Rig, runs: int) -> Figures:
        if isinstance(figures, Exception):
            raise figures
        return figures

    return Row(
        number=number,
        fault="nothing happens",
        holds="all of it",
        act=act,
        short=2,
        long=7,
        confirms=1,
        **more,
    )


def good(**more: Any) -> Figures:
    """Figures of two runs without a problem."""
    return Figures(attempts=5, acknowledged=5, confirmed=5, hits=2, **more)


def run(figures: Figures | Exception, mode: str = "memory", **more: Any) -> Result:
    node: Any = Node()
    (result,) = run_all(node, [Task(make_row(figures, **more), mode, runs=2)])
    return result


def test_a_row_without_problems_leaves_no_files() -> None:
    result = run(good())
    assert result.holds
    assert result.folder is None
    assert problems(result) == []


def test_a_broken_promise_is_reported_with_the_folder_of_the_logs() -> None:
    result = run(good(lost=3))
    assert not result.holds
    assert result.folder is not None
    assert result.folder.is_dir()
    assert problems(result) == [
        "row 90 nothing happens, memory: lost: 3, of which 0 may be lost",
        f"row 90 nothing happens, memory: logs: {result.folder}",
    ]
    result.folder.rmdir()


def test_a_row_that_can_not_be_finished_is_broken() -> None:
    result = run(ValueError("no way\nand a long log"))
    assert result.folder is not None
    (traceback,) = result.folder.iterdir()
    assert "no way" in traceback.read_text()
    words = "it could not be finished: ValueError: no way"
    assert problems(result)[0] == f"row 90 nothing happens, memory: {words}"
    traceback.unlink()
    result.folder.rmdir()


def test_what_was_measured_besides_is_listed_and_kept() -> None:
    first = Report("3.10.8", [run(good(notes=["3 s without confirms"]))]).as_markdown()
    line = "- row 90 nothing happens, memory: 3 s without confirms"
    assert f"\nMeasured:\n\n{line}" in first
    other = Report("3.10.8", [run(good(), number=91)]).as_markdown(first)
    assert f"\nMeasured:\n\n{line}" in other


def test_the_baseline_promises_nothing() -> None:
    result = run(good(lost=3), BASELINE)
    assert result.holds
    assert result.folder is None


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"modes": ("spool",)}, "only for the mode spool"),
        ({"kinds": ("no-such",)}, "missing: the Python package no_such"),
        ({"denied": lambda: "nobody may"}, "nobody may"),
    ],
    ids=["another mode", "not installed", "not allowed"],
)
def test_a_row_that_can_not_be_run_is_no_failure_and_no_success(
    more: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = Kind("no-such", "no_such", lambda port, workers: [])
    monkeypatch.setitem(KINDS, "no-such", kind)
    result = run(ValueError("it was run"), **more)
    line = f"row 90 nothing happens, memory: not run, {why}"
    assert problems(result) == [line]
    report = Report("3.10.8", [result])
    assert report.holds
    assert report.verdict == "Every promise was kept. 1 task not run."
    (found,) = json.loads(report.as_json())["results"]
    assert found["skipped"] == why
    assert found["holds"] is None
    assert f"Not run:\n\n- {line}" in report.as_markdown()
    assert "| 90 |" not in report.as_markdown()
    assert report.as_table().row_count == 0


def test_each_row_is_run_in_each_mode_one_after_the_other() -> None:
    rows = [make_row(good(), number) for number in (90, 91)]
    tasks = plan(rows, ["memory", BASELINE], lambda row: row.long)
    assert [(task.row.number, task.mode, task.runs) for task in tasks] == [
        (90, "memory", 7),
        (90, BASELINE, 7),
        (91, "memory", 7),
        (91, BASELINE, 7),
    ]


def test_the_table_has_the_naive_publisher_below_the_library() -> None:
    report = Report("3.10.8", [run(good()), run(good(lost=3), BASELINE)])
    out = Console(file=io.StringIO(), width=command.WIDTH)
    out.print(report.as_table())
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    memory, naive = [line.split() for line in lines if "nothing happens" in line]
    assert " ".join(memory[3:]) == "memory 2 5 5 0 0 0 0 0 0 balanced"
    assert " ".join(naive[3:]) == "naive 2 5 5 3 0 0 0 0 0 none"


def test_ghosts_zombies_and_stuck_rows_break_the_promise() -> None:
    result = run(good(committed=5, ghosts=2, zombies=1, stuck=8.1, lease=2.0))
    assert result.figures.broken == [
        "ghosts: 2",
        "zombies: 1",
        "a row was stuck for 8.1 s",
    ]
    assert result.folder is not None
    result.folder.rmdir()


def test_a_second_table_compares_events_with_the_state(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    both = {"modes": ("outbox-sqlite", NAIVE_OUTBOX)}
    state = good(committed=4, duplicated=2, lost_leases=7, stuck=2.26, lease=2.0)
    ours = run(state, "outbox-sqlite", **both)
    naive = run(good(committed=4, unmarked=2), NAIVE_OUTBOX, **both)
    Report("3.10.8", [ours, run(good()), naive]).write_into(page)
    # The figures of modes that are not run again are kept.
    report = Report("3.10.8", [naive])
    report.write_into(page)
    lines = page.read_text().partition("With an outbox:")[2].splitlines()
    assert [line.partition("happens | ")[2] for line in lines[4:6]] == [
        "outbox-sqlite | 4 | 0 | 0 | 0 | 2 | 0 | 7 | 2.3 | 2 |",
        "naive-outbox | 4 | 0 | 0 | 0 | 0 | 2 | 0 |  |  |",
    ]
    assert lines[6].startswith("<!-- end of")
    assert report.as_state_table().row_count == 1


def test_without_state_there_is_no_second_table() -> None:
    report = Report("3.10.8", [run(good())])
    assert "With an outbox" not in report.as_markdown()
    assert not report.as_state_table().row_count


def test_json_has_every_figure() -> None:
    report = Report("3.10.8", [run(good(slowest=0.5))])
    found = json.loads(report.as_json())
    (result,) = found["results"]
    assert found["rabbitmq"] == "3.10.8"
    assert result["row"] == 90
    assert result["mode"] == "memory"
    assert result["holds"] is True
    assert result["skipped"] is None
    assert result["attempts"] == 5
    assert result["slowest"] == 0.5


def test_a_page_keeps_its_own_text_and_other_versions(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Faults\n\nWritten by hand.\n")
    Report("3.10.8", [run(good())]).write_into(page)
    Report("4.0.5", [run(good())]).write_into(page)
    Report("3.10.9", [run(good(lost=3), BASELINE)]).write_into(page)
    text = page.read_text()
    assert text.startswith("# Faults\n\nWritten by hand.\n\n<!-- RabbitMQ 3.10 -->")
    assert "## RabbitMQ 4.0.5" in text
    assert "## RabbitMQ 3.10.9" in text
    assert "## RabbitMQ 3.10.8" not in text
    assert "| 90 | nothing happens | naive | 2 | 5 | 5 | 3 |" in text


def lost_on(page: Path) -> list[tuple[str, str, str]]:
    """Row, mode and lost events, as the first table of *page* shows them."""
    table = page.read_text().partition("The promise")[0].splitlines()
    cells = [line.strip("| ").split(" | ") for line in table if "nothing" in line]
    return [(line[0], line[2], line[6]) for line in cells]


def test_a_page_keeps_the_figures_of_rows_that_were_not_run_again(
    tmp_path: Path,
) -> None:
    page = tmp_path / "page.md"
    first = [
        run(good(lost=1), number=12),
        run(good(), number=9),
        run(good(lost=1), BASELINE, number=9),
        run(good(), number=10),
        run(good(), number=11, modes=("spool",)),
    ]
    Report("3.10.8", first).write_into(page)
    assert "Not kept:\n\n- row 12" in page.read_text()
    again = [run(good(lost=3), BASELINE, number=9), run(good(), number=12)]
    Report("3.10.8", again).write_into(page)
    assert lost_on(page) == [
        ("9", "memory", "0"),
        ("9", "naive", "3"),
        ("10", "memory", "0"),
        ("12", "memory", "0"),
    ]
    text = page.read_text()
    assert "Not kept:" not in text
    assert "Not run:\n\n- row 11 nothing happens, memory: " in text
    assert text.count("| 10 | nothing happens | memory | all of it |") == 1


def test_figures_of_another_patch_release_are_removed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    Report("3.10.8", [run(good(), number=9)]).write_into(page)
    Report("3.10.9", [run(good(), number=10)]).write_into(page)
    assert "| 9 |" not in page.read_text()


@pytest.mark.parametrize(
    ("figures", "code"), [(good(), 0), (good(lost=1), 1)], ids=["holds", "does not"]
)
def test_the_exit_code_tells_whether_every_promise_was_kept(
    figures: Figures,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    @contextmanager
    def node() -> Iterator[Any]:
        yield Node()

    monkeypatch.setitem(ROWS, 90, make_row(figures))
    monkeypatch.setattr(command, "running_node", node)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert command.main(["--rows", "90", "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["results"][0]["runs"] == 2
    assert ("lost: 1" in err) == bool(code)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("nine", "'nine' is not a list of rows, for example 1,4,9"),
        ("999", "there is no row 999; there are 1, 2"),
        ("20", "row 20 is tested by tests/test_encoding.py"),
    ],
)
def test_unknown_rows_are_reported(
    words: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--rows", words])
    assert problem in capsys.readouterr().err


def test_unknown_modes_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--mode", "memory,disk"])
    assert "there is no mode disk; there are memory, spool" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "modes"),
    [
        ([], ["memory"]),
        (["--mode", "spool,outbox-sqlite"], ["spool", "outbox-sqlite"]),
        (["--mode", "all"], [*MODES]),
    ],
)
def test_modes_are_named_one_by_one_or_all(words: list[str], modes: list[str]) -> None:
    assert command.parser().parse_args(words).mode == modes


@pytest.mark.slow
def test_a_real_row_is_run_in_the_mode_that_is_named(
    private_rabbitmq: RabbitMQNode,
) -> None:
    tasks = plan([ROWS[7]], ["memory", BASELINE], lambda row: 1)
    memory, naive = run_all(private_rabbitmq, tasks)
    assert memory.figures.broken == []
    assert memory.figures.confirmed > 0
    assert naive.figures.confirmed == 0
