"""docs/verify.md names all that `flask events verify` has, and shows what it prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from flask_eventcollector.cli.verify import verify
from flask_eventcollector.verifying.node import find_programs
from tests.cli.support import FlaskEvents
from tests.docs.reader import ROOT, find_one, runs

PAGE = "docs/verify.md"
TRANSCRIPT = find_one(page=PAGE, language="console")
#: How long the load lasts here.
MINUTES = "0.2"


def names_in_table(heading: str) -> list[str]:
    """The first column of the table below *heading*."""
    text = (ROOT / PAGE).read_text().partition(f"| {heading} |")[2]
    return re.findall(r"^\| ([^|]+) \|", text.partition("\n\n")[0], re.M)


def shape(report: str) -> str:
    """A report without what differs from run to run."""
    report = re.sub(r"(^  [a-z ]+\d+\n)+", "STROKES\n", report, flags=re.M)
    report = re.sub(r"\d[\d.:]*", "N", report)
    return re.sub(r" +", " ", report)


def test_every_option_is_listed() -> None:
    options = {option for p in verify.params for option in p.opts}
    assert {name.strip("`") for name in names_in_table("option")} == options


@pytest.mark.slow
@pytest.mark.rabbitmq
@pytest.mark.skipif(find_programs() is None, reason="it starts a node of its own")
@runs(TRANSCRIPT)
def test_it_kills_broker_and_workers_and_prints_what_the_page_shows(
    tmp_path: Path,
) -> None:
    shown, _, report = TRANSCRIPT.code.removeprefix("$ ").partition("\n")
    words = shlex.split(shown)
    words[words.index("--minutes") + 1] = MINUTES
    flask = FlaskEvents(tmp_path, "memory://")
    # Its workers have signal handlers that raise; see `unmeasured`.
    inherited = flask.environment.items()
    flask.environment = {k: v for k, v in inherited if not k.startswith("COVERAGE_")}
    flask.environment["TMPDIR"] = str(tmp_path)

    done = flask(*words[2:])

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^lost +0 ", done.stdout, re.M)
    assert re.search(r"^  broker restarted +[1-9]", done.stdout, re.M)
    assert re.search(r"^  worker killed +[1-9]", done.stdout, re.M)
    assert shape(done.stdout) == shape(report)
    assert list(tmp_path.iterdir()) == []
