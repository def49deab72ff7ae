"""Each example of the pages runs, or says why it doesn't."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import DEADLINE, unmeasured
from tests.rabbitmq import free_ports

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^>]*) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
#: Pages with tests of their own that run each of their examples.
ELSEWHERE = {"docs/testing.md", "docs/messages.md", "README.md"}


class Example(NamedTuple):
    """One fenced block."""

    page: str
    number: int
    mark: str
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.number}"


def examples() -> Iterator[Example]:
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "example_app" / "README.md"]
    for path in sorted(pages):
        page = str(path.relative_to(ROOT))
        for number, found in enumerate(FENCE.finditer(path.read_text()), 1):
            mark, language, code = found["mark"] or "", found["language"], found["code"]
            if page not in ELSEWHERE:
                yield Example(page, number, mark, language, code)


EXAMPLES = list(examples())
NEEDS = "needs "
PYTHON = [
    e
    for e in EXAMPLES
    if e.language == "python" and (not e.mark or e.mark.startswith(NEEDS))
]
SHELL = [e for e in EXAMPLES if e.language == "sh"]
QUICKSTART = {e.mark or e.language: e.code for e in EXAMPLES if "quickstart" in e.page}


@pytest.mark.parametrize("example", PYTHON, ids=str)
def test_python_runs(example: Example, tmp_path: Path) -> None:
    if example.mark:
        pytest.importorskip(example.mark.removeprefix(NEEDS))
    (tmp_path / "example.py").write_text(example.code)
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True, timeout=60)


@pytest.mark.parametrize("example", SHELL, ids=str)
def test_what_is_not_run_says_why(example: Example) -> None:
    is_run = example.mark in ("server", "client")
    assert is_run or example.mark.startswith("not run: "), example.code


def test_the_quickstart_runs_as_it_is_pasted(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(QUICKSTART["python"])
    (port,) = map(str, free_ports(1))
    environment = {**os.environ, **unmeasured(), "FLASK_RUN_PORT": port}
    server = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {sys.executable} -m {QUICKSTART['server']}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_answer(f"http://127.0.0.1:{port}/events")
        client = QUICKSTART["client"].replace("5000", port).replace("curl", "curl -s")
        answers = subprocess.run(
            ["/bin/sh", "-e"], input=client, capture_output=True, text=True, timeout=60
        ).stdout
    finally:
        server.terminate()
        server.wait(DEADLINE)
    placed, _, stats = answers.partition("\n")
    assert placed == "placed"
    assert json.loads(stats)["confirmed"] == 1


def wait_for_answer(url: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            urllib.request.urlopen(url, timeout=DEADLINE).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
