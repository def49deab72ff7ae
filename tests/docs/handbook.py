"""Runs the steps of the operator's handbook, and compares what they say.

With REWRITE_TRANSCRIPTS=1 the pages get what this run says instead.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tests.docs.machine import Machine
from tests.docs.reader import ROOT, Example, Test, find, runs
from tests.helpers import DEADLINE

REWRITES = bool(os.environ.get("REWRITE_TRANSCRIPTS"))
#: Seconds until a command says what is shown; a rewritten page may show other things.
PATIENCE = 6.0 if REWRITES else DEADLINE
#: Commands that change nothing. What they show may come a moment later.
READING = re.compile(
    r"flask events (status|list|dead|show|why|top|tail|topology (check|diff))"
    r"|flask events (outbox check|doctor)|journalctl|curl|df|du|psql .*pg_stat"
    r"|sudo rabbitmqctl list_|sudo rabbitmq-diagnostics"
)
#: A prompt, with the name of the machine if a page is about several.
PROMPT = re.compile(r"^([\w-]*)\$ ", re.M)
ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: What is another one in each run, and stays the same throughout a page.
NAMES = (
    ID,
    r"(?<=@)[0-9a-f]{8}(?=@)",
    r"(?<=@)[0-9a-f]{8}(?=\.spool)",
    # Process ids.
    r"(?<=@)\d+(?=@)|(?<=process )\d+|(?<=pid:)\d+|(?<=\.\d{3}Z  )\d+(?=  )"
    r"|(?<=process   )\d+(?=, )|(?<= \[)\d+(?=\] \[)"
    r"|^\d+(?= +(?:alive|gone)|\|| +\d+ +\d+ )",
)
#: What differs from run to run, and what takes its place.
VARYING = {
    **dict.fromkeys(NAMES, "NAME"),
    r"\b\d+(\.\d+)? (s|min)\b": "AGE",
    r"\b\d+(\.\d+)? (B|kB|KiB|MiB)\b": "SIZE",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3}Z| \+\d{4})?": "TIME",
    r"\b\d\d:\d\d:\d\d(\.\d+)?": "TIME",
    r"\d+ events? retained, \d+ in flight": "SOME",
    r"\d+ events? in memory only": "SOME in memory only",
    # How often an event was sent, and when it will be again.
    r" \S+ +(in AGE|now) ": " TRIES NEXT ",
    # The columns of a table are as wide as what varies.
    r"(?<=\S) +": " ",
    r"^ +(?=\d)": "",
}
#: What a command logs itself, which the pages leave out.
LOG = re.compile(r"^(Broker unavailable|Left \d+ events?) .*\n", re.M)


class Call(NamedTuple):
    """A command of a page, with what it says there."""

    machine: str
    command: str
    output: str


def calls(transcript: str) -> Iterator[Call]:
    """Each command of a transcript. It goes on after a backslash at a line's end."""
    _, *parts = PROMPT.split(transcript)
    for machine, text in zip(parts[::2], parts[1::2], strict=True):
        found = re.match(r"((?:.*\\\n)*.*)\n?", text)
        assert found is not None
        yield Call(machine, found[1], text[found.end() :])


def same_for_all(output: str) -> str:
    """*output* without what differs from run to run."""
    for pattern, name in VARYING.items():
        output = re.sub(pattern, name, output, flags=re.M)
    return output.strip()


def swapped(text: str, names: Mapping[str, str]) -> str:
    """*text* with other names."""
    if not names:
        return text
    any_of = "|".join(map(re.escape, names))
    return re.sub(rf"(?<!\w)(?:{any_of})(?!\w)", lambda found: names[found[0]], text)


class Page:
    """A page of the handbook, whose steps are run on one or several machines."""

    def __init__(self, name: str, *machines: Machine, **named: Machine) -> None:
        """*machines* is one, or they are *named* as in the prompts of the page."""
        self._machines = named or {"": machines[0]}
        self._left = find(page=path_of(name), language="console")
        self._names: dict[str, str] = {}

    def run(self, heading: str, number: int | None = None) -> None:
        """Run the next transcripts of the page, which are below *heading*.

        :param number: how many; all by default.
        """
        found = [example for example in self._left if example.heading == heading]
        found = found[:number]
        assert found
        assert found == self._left[: len(found)]
        del self._left[: len(found)]
        for example in found:
            self._run(example)

    def end(self) -> None:
        """Assert that all was run."""
        assert [str(example) for example in self._left] == []

    def _run(self, example: Example) -> None:
        said = [(call, self._answer(call)) for call in calls(example.code)]
        if REWRITES:
            self._rewrite(example, said)

    def _answer(self, call: Call) -> str:
        """What the command says; waits until that is what the page shows."""
        machine = self._machines[call.machine.replace("-", "_")]
        command = machine.translated(swapped(call.command, self._names))
        deadline = time.monotonic() + PATIENCE
        while True:
            said = machine.shown(machine.run(command))
            if command.startswith("flask "):
                said = LOG.sub("", said)
            ours, theirs = same_for_all(said), same_for_all(call.output)
            is_over = not READING.match(command) or time.monotonic() > deadline
            if is_over or ours == theirs:
                break
            time.sleep(0.2)
        assert REWRITES or ours == theirs, f"{command} says:\n{ours}"
        self._learn(call.output, said)
        return said

    def _learn(self, shown: str, said: str) -> None:
        """Learn what the names of the page mean in this run."""
        for pattern in NAMES:
            theirs, ours = (re.findall(pattern, text, re.M) for text in (shown, said))
            self._names |= dict(zip(theirs, ours, strict=not REWRITES))

    def _rewrite(self, example: Example, said: list[tuple[Call, str]]) -> None:
        code = "\n".join(f"{c.machine}$ {c.command}\n{output}" for c, output in said)
        code = swapped(code, {ours: shown for shown, ours in self._names.items()})
        path = ROOT / example.page
        old = example.code.rstrip("\n")
        path.write_text(path.read_text().replace(old, code.rstrip("\n")))


def path_of(name: str) -> str:
    return f"docs/handbook/{name}.md"


def runs_page(name: str) -> Callable[[Test], Test]:
    """Note that a test runs all steps of a page."""
    return runs(*find(page=path_of(name)))
