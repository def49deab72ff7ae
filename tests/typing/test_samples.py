"""Type checkers accept right uses of the package, and refuse wrong ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = sorted(Path(__file__).parent.glob("samples/*.py"))
MARK = "  # refused"

pytest.importorskip("pyright", reason="the dependency group 'typing' is not installed")


class Line(NamedTuple):
    """A line of a sample."""

    sample: str
    number: int


def marked_lines() -> set[Line]:
    """The lines that must be refused."""
    return {
        Line(path.stem, number)
        for path in SAMPLES
        for number, text in enumerate(path.read_text().splitlines(), 1)
        if text.endswith(MARK)
    }


def run(module: str, *arguments: str) -> str:
    """What a checker prints. It exits with 1, since it refuses something."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def run_mypy() -> Iterator[tuple[str, int, str]]:
    output = run("mypy", "--output", "json", *map(str, SAMPLES))
    for found in map(json.loads, output.splitlines()):
        if found["severity"] == "error":
            yield found["file"], found["line"], found["message"]


def run_pyright() -> Iterator[tuple[str, int, str]]:
    # It reads pyproject.toml, which names the folder.
    output = run("pyright", "--outputjson", "--pythonpath", sys.executable)
    for found in json.loads(output)["generalDiagnostics"]:
        yield found["file"], found["range"]["start"]["line"] + 1, found["message"]


CHECKERS = {"mypy": run_mypy, "pyright": run_pyright}


@pytest.fixture(scope="module", params=CHECKERS)
def refused(request: pytest.FixtureRequest) -> dict[Line, str]:
    """The lines that a checker refuses, each with a message."""
    found = CHECKERS[request.param]()
    return {Line(Path(file).stem, line): message for file, line, message in found}


def test_a_checker_refuses_each_marked_line(refused: dict[Line, str]) -> None:
    assert marked_lines() - refused.keys() == set()


def test_a_checker_accepts_all_other_lines(refused: dict[Line, str]) -> None:
    others = {line: refused[line] for line in refused.keys() - marked_lines()}
    assert others == {}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_marked_lines_are_only_in_samples_that_must_be_refused(sample: Path) -> None:
    marked = {line.sample for line in marked_lines()}
    assert (sample.stem in marked) == sample.stem.startswith("refused_")
