"""Checks take a limited time, and may fail themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from flask_eventcollector.doctor.case import Case
from flask_eventcollector.doctor.examination import Check, examine
from flask_eventcollector.doctor.findings import (
    Finding,
    Level,
    ok,
    problem,
    warning,
    worst,
)

CASE = cast(Case, None)


def findings(look: Any, deadline: float = 5.0) -> list[Finding]:
    return examine(CASE, [Check("disk", look, deadline)], lambda _: None)


def test_each_finding_says_what_it_is_about_and_progress_is_told() -> None:
    def look(_: Case) -> Iterator[Finding]:
        yield ok("fine")
        yield warning("odd", "see")

    done: list[int] = []
    found = examine(CASE, [Check("disk", look), Check("net", look)], done.append)

    assert [(f.about, f.what) for f in found] == [
        ("disk", "fine"),
        ("disk", "odd"),
        ("net", "fine"),
        ("net", "odd"),
    ]
    assert done == [1, 1]


def test_one_that_hangs_is_a_finding_and_the_others_go_on() -> None:
    end = threading.Event()

    def hang(_: Case) -> Iterator[Finding]:
        yield ok("begun")
        end.wait(20)

    found = findings(hang, 0.1)
    end.set()

    assert [f.level for f in found][-1] is Level.PROBLEM
    assert "no answer within 0 s" in found[-1].what


def test_one_that_fails_is_a_finding_without_the_secret_in_the_error() -> None:
    def fail(_: Case) -> Iterator[Finding]:
        yield ok("begun")
        raise RuntimeError("amqp://user:the-planted-password@host")

    begun, failed = findings(fail)

    assert begun.level is Level.OK
    assert failed.level is Level.PROBLEM
    assert "RuntimeError in test_examination.py, line" in failed.what
    assert "planted" not in str(failed)


def test_without_threads_it_goes_on_in_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert findings(lambda _: iter([ok("fine")])) == [ok("fine")._replace(about="disk")]


def test_the_worst_level_counts() -> None:
    assert worst([]) is Level.OK
    assert worst([ok("a"), warning("b", "c")]) is Level.WARNING
    assert worst([problem("a", "b"), ok("c"), warning("d", "e")]) is Level.PROBLEM
