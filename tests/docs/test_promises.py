"""The tests named on pages exist, and each promise names some."""

from __future__ import annotations

import re

import pytest

from tests.docs.reader import ROOT
from tests.faults.matrix import ELSEWHERE, ROWS

PAGE = (ROOT / "docs" / "promises.md").read_text()
PROMISES = re.findall(
    r"^- \*\*.*\n(?:  .*\n)*", PAGE.partition("## What is not")[0], re.M
)
NAMED = sorted(
    {
        name
        for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for name in re.findall(r"`(tests/[\w/.:]+)`", page.read_text())
    }
)


@pytest.mark.parametrize("name", NAMED)
def test_what_a_page_names_exists(name: str) -> None:
    file, _, definition = name.partition("::")

    assert (ROOT / file).exists()
    if definition:
        assert re.search(
            rf"^(def|class) {definition}\b", (ROOT / file).read_text(), re.M
        )


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise[4:50])
def test_each_promise_names_its_tests(promise: str) -> None:
    tests = re.findall(
        r"^  - (?:`(?P<test>tests/.*::.*)`|(?P<rows>.*rows?.*))$", promise, re.M
    )

    assert tests
    rows = [int(number) for _, row in tests for number in re.findall(r"\d+", row)]
    assert set(rows) <= {*ROWS, *ELSEWHERE}


def test_the_page_has_promises() -> None:
    assert len(PROMISES) > 10
