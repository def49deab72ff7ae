"""The table of log lines matches the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.reader import MODULES, ROOT

ROWS = re.findall(
    r"^\| [A-Z].*? \| `([^`]*)`",
    (ROOT / "docs" / "reference" / "log.md").read_text(),
    re.M,
)


def logged() -> Iterator[str]:
    """The beginnings of log lines in the package."""
    for path in MODULES:
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            for text in _beginnings(node):
                known = constants.get(getattr(text, "id", ""), text)
                if isinstance(known, ast.Constant) and isinstance(known.value, str):
                    yield known.value


def _beginnings(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called in ("_log", "self._log_problem", "Problem"):
            yield node.args[1]
        elif called.startswith("logger.") and called != "logger.log":
            yield node.args[0]
    # One variable, for several lines.
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "line":
        yield node.value


def words(line: str) -> str:
    """The beginning of a line, up to its first variable part."""
    return re.split(r"[…%(]", line)[0].strip(" :")


LOGGED = sorted({words(line) for line in logged()} - {""})


def test_there_are_lines() -> None:
    assert len(LOGGED) > 15


@pytest.mark.parametrize("line", ROWS)
def test_each_line_of_the_table_is_logged(line: str) -> None:
    assert words(line) in LOGGED


@pytest.mark.parametrize("line", LOGGED)
def test_each_line_that_is_logged_is_in_the_table(line: str) -> None:
    assert line in {words(row) for row in ROWS}
