"""The transcripts of docs/command-line.md, from a broker and two workers.

With REWRITE_TRANSCRIPTS=1 the page gets those of this run instead.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import FlaskEvents
from tests.docs.reader import ROOT, Example, find, runs
from tests.docs.wire import Relay
from tests.helpers import DEADLINE, freeze, wait_until
from tests.rabbitmq import RabbitMQNode

ONE_KILLED, ADOPTED, BOTH_KILLED, MOVED, EXPORTED = TRANSCRIPTS = find(
    page="docs/command-line.md", language="console"
)
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: The spool's folder on the page.
FOLDER = "/srv/shop/spool"
#: The exported events on the page.
FILE = "/srv/shop/events.jsonl"
ADDRESS = r"127\.0\.0\.1:\d+"
#: The same broker by another name, as if it had moved.
MOVED_TO = r"localhost:\d+"
#: What the app logs, which the page leaves out.
LOG = re.compile(r"^(Broker unavailable|Left \d+ events|Dropped \d+ events).*\n", re.M)
#: What differs from run to run, and what takes its place.
VARYING = {
    r"@[0-9a-f]{8}\.spool": "@HEX.spool",
    r"shop@[0-9a-f]{8}@": "shop@HEX@",
    r"\b\d+(\.\d+)? s\b": "AGE",
    r"\b\d+\.\d KiB": "SIZE",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z": "TIME",
    r'("oldest_age"|"bytes"): [\d.]+': r"\1: NUMBER",
    # The import that wrote the file has ended.
    r"process \d+ \(gone\) for the new": "process PID (gone) for the new",
    ADDRESS: "ADDRESS",
    MOVED_TO: "NEW ADDRESS",
    # The columns of a table are as wide as what varies.
    r"(?<=\S) +": " ",
    r"^ +(?=\d)": "",
}
#: Answers each line with what it evaluates to.
WORKER = """
import json
import sys
from tests.cli.shop_app import app, events

def publish(queue, *numbers, tenant):
    made = [
        events.enqueue_event({"order_id": n}, queue, headers={"tenant": tenant})
        for n in numbers
    ]
    events.publish(timeout=1)
    return [event.id for event in made]

with app.app_context():
    for line in sys.stdin:
        print(json.dumps(eval(line)), flush=True)
"""


class Worker:
    """A process of the app, which carries out requests."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def do(self, expression: str) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        print(expression, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        if number is signal.SIGKILL:
            self._process.wait(DEADLINE)


@contextmanager
def started_worker(flask_events: FlaskEvents) -> Iterator[Worker]:
    with flask_events.python(WORKER) as process:
        yield Worker(process)


class Page:
    """What the page shows, with the ids, processes and folder of this run."""

    def __init__(self, flask_events: FlaskEvents) -> None:
        self._flask_events = flask_events
        folder = flask_events.folder
        self._ours = {FOLDER: str(folder), FILE: str(folder.parent / Path(FILE).name)}

    def means(self, shown: list[str], ours: list[Any]) -> None:
        self._ours |= dict(zip(shown, map(str, ours), strict=True))

    def check(self, example: Example) -> None:
        shown = list(calls(self._translated(example.code)))
        said = [(command, self._run(command)) for command, _ in shown]
        if os.environ.get("REWRITE_TRANSCRIPTS"):
            self._rewrite(example, said)
            return
        for (_, theirs), (_, ours) in zip(shown, said, strict=True):
            assert varying(ours) == varying(theirs)

    def _run(self, command: str) -> str:
        flask, events, *arguments = shlex.split(command)
        assert (flask, events) == ("flask", "events")
        with self._flask_events.started(*arguments, stderr=subprocess.STDOUT) as said:
            return LOG.sub("", said.communicate(timeout=60)[0])

    def _translated(self, text: str) -> str:
        for shown, ours in self._ours.items():
            text = text.replace(shown, ours)
        return text

    def _rewrite(self, example: Example, said: list[tuple[str, str]]) -> None:
        code = "\n".join(f"$ {command}\n{output}" for command, output in said)
        for shown in (FOLDER, FILE):
            code = code.replace(self._ours[shown], shown)
        code = re.sub(ADDRESS, "127.0.0.1:5672", code)
        code = re.sub(MOVED_TO, "localhost:5672", code)
        path = ROOT / example.page
        path.write_text(path.read_text().replace(example.code, code))


def calls(transcript: str) -> Iterator[tuple[str, str]]:
    """Each command of a transcript, with its output."""
    for part in re.split(r"^\$ ", transcript, flags=re.M)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def varying(output: str) -> str:
    for pattern, name in VARYING.items():
        output = re.sub(pattern, name, output, flags=re.M)
    return output.strip()


def shown(pattern: str) -> list[str]:
    """What the page has for *pattern*, in the order in which it appears."""
    text = "".join(example.code for example in TRANSCRIPTS)
    return list(dict.fromkeys(re.findall(pattern, text)))


def reasons(flask_events: FlaskEvents) -> int:
    return flask_events("dead").stdout.count("NO_ROUTE")


@pytest.mark.slow
@runs(*TRANSCRIPTS)
def test_the_commands_print_what_the_page_shows(
    rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    with ExitStack() as workers:
        with Relay(rabbitmq.port) as relay:
            flask_events = FlaskEvents(tmp_path / "spool", relay.url)
            flask_events.environment["FLASK_EVENTCOLLECTOR_DEAD_AFTER"] = "0"
            first = workers.enter_context(started_worker(flask_events))
            ids = first.do("publish('invoices.requested', 1, 2, 3, tenant='a')")
            wait_until(lambda: reasons(flask_events) == 3, "they are dead on disk")
        # From now on the broker is unreachable.
        second = workers.enter_context(started_worker(flask_events))
        ids += first.do("publish('orders.created', 7, 8, tenant='a')")
        ids += second.do("publish('orders.created', 9, 10, 11, tenant='a')")
        page = Page(flask_events)
        page.means(shown(ID.pattern), ids)
        page.means(shown(r"shop@[0-9a-f]{8}@(\d+)@"), [first.pid, second.pid])

        freeze(second.pid)  # so that it adopts nothing yet
        first.send_signal(signal.SIGKILL)
        page.check(ONE_KILLED)

        second.send_signal(signal.SIGCONT)
        wait_until(lambda: second.do("events.stats().adopted") == 5, "it has adopted")
        page.check(ADOPTED)

        second.send_signal(signal.SIGKILL)
        page.check(BOTH_KILLED)

        url = rabbitmq.url.replace("127.0.0.1", "localhost")
        flask_events.environment["FLASK_EVENTCOLLECTOR_BROKER_URL"] = url
        page.check(MOVED)
        page.check(EXPORTED)
