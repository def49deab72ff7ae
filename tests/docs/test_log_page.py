"""The page on the log matches the code: every kind of record, with its attributes."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from flask_eventcollector.delivery.entries import OVERFLOW, Notice, NoticeKind
from flask_eventcollector.delivery.log import ThrottledLog
from flask_eventcollector.delivery.records import Kind
from tests.docs.reader import MODULES, ROOT, find_one, runs
from tests.parts import attributes, make_event

PAGE = (ROOT / "docs" / "reference" / "log.md").read_text()
JSON = find_one(page="docs/reference/log.md", language="json")
#: The only module that has the logger.
RECORDS = ROOT / "flask_eventcollector" / "delivery" / "records.py"


class Row(NamedTuple):
    """What the page says of a kind of record."""

    level: str
    event: str
    text: str
    attributes: str


ROWS = [
    Row(*found)
    for found in re.findall(
        r"^\| ([A-Z]+)[^|]* \| `([^`]*)` \| `([^`]*)` \| ([^|]*?) ?\|", PAGE, re.M
    )
]


def test_each_kind_of_record_is_on_the_page_and_no_other() -> None:
    assert [row.event for row in ROWS] == [kind.event for kind in Kind]


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.event)
def test_the_page_has_level_text_and_attributes_of(kind: Kind) -> None:
    (row,) = (row for row in ROWS if row.event == kind.event)
    assert (row.level, row.text) == (logging.getLevelName(kind.level), kind.text)
    assert row.attributes == ", ".join(f"`{name}`" for name in kind.attributes)


def test_each_attribute_is_explained() -> None:
    explained = re.findall(r"^\| `eventcollector_(\w+)`", PAGE, re.M)
    assert set(explained) == {
        "event",
        *(name for kind in Kind for name in kind.attributes),
    }


def test_no_two_kinds_have_the_same_text() -> None:
    """Error trackers group by it."""
    assert len({kind.text for kind in Kind}) == len(Kind)


def loggers() -> Iterator[str]:
    """The modules of the package that use a logger of their own."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and re.fullmatch(
                r"log(ger|ging)?\.(debug|info|warning|error|exception|critical|log)"
                r"|logging\.getLogger|warnings\.warn",
                ast.unparse(node.func),
            ):
                yield path.name


def test_every_record_is_written_in_one_place() -> None:
    # pika's own records are filtered, not written, in pika_logging.
    assert set(loggers()) == {RECORDS.name, "pika_logging.py"}


def kinds_used() -> Iterator[str]:
    for path in MODULES:
        if path != RECORDS:
            yield from re.findall(r"\bKind\.([A-Z_]+)", path.read_text())


def test_each_kind_is_written_somewhere() -> None:
    assert set(kinds_used()) == {kind.name for kind in Kind}


def calls() -> Iterator[tuple[Kind, ast.Call]]:
    """The calls that write records whose kind stands there."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "log_record",
                "log_failure",
            ):
                for name in re.findall(r"Kind\.(\w+)", ast.unparse(node.args[0])):
                    yield Kind[name], node


@pytest.mark.parametrize(
    ("kind", "call"), [pytest.param(*c, id=c[0].event) for c in calls()]
)
def test_a_record_gets_all_values_that_its_kind_names(
    kind: Kind, call: ast.Call
) -> None:
    """Others than those of ThrottledLog, which tests/test_log.py looks at."""
    given = {keyword.arg for keyword in call.keywords}
    if None in given:
        return
    if ast.unparse(call.func) == "log_failure":
        given.add("reason")
    assert given >= {*kind.attributes, *re.findall(r"%\((\w+)\)", kind.text)}


@runs(JSON)
def test_a_json_formatter_gets_what_the_page_shows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown = json.loads(JSON.code)
    ids = shown["eventcollector_ids"].split()
    events = [make_event(None, "orders.created", id=id) for id in ids]
    assert len(events) == 3

    ThrottledLog().notices([Notice(NoticeKind.DROPPED, e, OVERFLOW) for e in events])

    (record,) = caplog.records
    assert shown == {
        "levelname": record.levelname,
        "message": record.getMessage(),
        **attributes(record),
    }
