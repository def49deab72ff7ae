"""The examples of docs/testing.md, as one project."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\S+)\n")
FAILING = "test_fails.py"


class Block(NamedTuple):
    """A fenced block; its first line names the file."""

    language: str
    text: str

    @property
    def file(self) -> str:
        found = FILE_NAME.match(self.text)
        return found[1] if found else ""


BLOCKS = [Block(*found) for found in FENCE.findall(PAGE.read_text())]
FILES = {block.file: block.text for block in BLOCKS if block.file}


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """The project that the page describes."""
    for name, text in FILES.items():
        (pytester.path / name).write_text(text)
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    # In a process of its own: SQLAlchemy can't be imported twice in one.
    return project.runpytest_subprocess("-p", "no:cacheprovider", *options)


def test_each_example_has_a_file_and_each_file_is_whole() -> None:
    examples = [block for block in BLOCKS if block.language != "text"]

    assert len(examples) == len(FILES) > 10
    assert all(block.file for block in examples)


# Once by itself, once with the request context that pytest-flask keeps pushed.
@pytest.mark.parametrize("options", [("-p", "no:flask"), ()])
def test_the_examples_pass(project: pytest.Pytester, options: tuple[str, ...]) -> None:
    tests = [text for name, text in FILES.items() if name.startswith("test_")]
    written = sum(len(re.findall(r"def test_", text)) for text in tests)
    failing = FILES[FAILING].count("def test_")
    # One of them runs twice.
    expected = written - failing + 1

    result = run(project, "--ignore", FAILING, *options)

    result.assert_outcomes(passed=expected)


def test_the_failure_says_what_the_page_says(project: pytest.Pytester) -> None:
    (message,) = [block.text for block in BLOCKS if block.language == "text"]

    result = run(project, "-p", "no:flask", FAILING)

    result.assert_outcomes(failed=1)
    lines = [line[8:] for line in result.stdout.lines if line.startswith("E  ")]
    lines[0] = lines[0].removeprefix("AssertionError: ")
    said = [line.strip() for line in lines if line.strip()]
    assert said == [line.strip() for line in message.splitlines() if line]
