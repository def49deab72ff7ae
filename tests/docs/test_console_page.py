"""The session of docs/console.md, typed into a shell."""

from __future__ import annotations

import doctest
import shlex
import subprocess
import sys
from pathlib import Path

from tests.docs.modules import write
from tests.docs.reader import find, find_one, runs
from tests.docs.test_blocks_page import STOCK

START = find_one(page="docs/console.md", language="sh")
SESSION = find(page="docs/console.md", language="pycon")
NOTEBOOK = find_one(page="docs/console.md", file="notebook.py")


@runs(START, *SESSION)
def test_the_shell_answers_as_the_page_shows(tmp_path: Path) -> None:
    write(tmp_path, STOCK)
    examples = doctest.DocTestParser().get_examples("".join(e.code for e in SESSION))
    assert len(examples) > 5

    answered = subprocess.run(
        [sys.executable, "-m", *shlex.split(START.code)],
        cwd=tmp_path,
        # An empty line ends a compound statement.
        input="".join(f"{example.source}\n" for example in examples),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout

    answers = answered.replace("... ", "").replace(">>> ", "")
    assert answers == "".join(example.want for example in examples)


@runs(NOTEBOOK)
def test_autoflush_publishes_at_once(tmp_path: Path) -> None:
    write(tmp_path, NOTEBOOK)

    command = [sys.executable, NOTEBOOK.file]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
