"""The examples of docs/testing.md, as one project."""

from __future__ import annotations

import re

import pytest

from tests.docs.reader import find, find_one, runs

pytest_plugins = ["pytester"]

FAILING = "test_fails.py"
BLOCKS = find(page="docs/testing.md")
FILES = {block.file: block.code for block in BLOCKS if block.file}
MESSAGE = find_one(page="docs/testing.md", language="text")


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
    assert len(BLOCKS) - 1 == len(FILES) > 10
    assert all(block.file for block in BLOCKS if block is not MESSAGE)


# Once by itself, once with the request context that pytest-flask keeps pushed.
@runs(*(block for block in BLOCKS if block.file != FAILING and block is not MESSAGE))
@pytest.mark.parametrize("options", [("-p", "no:flask"), ()])
def test_the_examples_pass(project: pytest.Pytester, options: tuple[str, ...]) -> None:
    tests = [text for name, text in FILES.items() if name.startswith("test_")]
    written = sum(len(re.findall(r"def test_", text)) for text in tests)
    failing = FILES[FAILING].count("def test_")
    # One of them runs twice.
    expected = written - failing + 1

    result = run(project, "--ignore", FAILING, *options)

    result.assert_outcomes(passed=expected)


@runs(MESSAGE, find_one(page="docs/testing.md", file=FAILING))
def test_the_failure_message_is_that_of_the_page(project: pytest.Pytester) -> None:
    result = run(project, "-p", "no:flask", FAILING)

    result.assert_outcomes(failed=1)
    lines = [line[8:] for line in result.stdout.lines if line.startswith("E  ")]
    lines[0] = lines[0].removeprefix("AssertionError: ")
    said = [line.strip() for line in lines if line.strip()]
    assert said == [line.strip() for line in MESSAGE.code.splitlines() if line]
