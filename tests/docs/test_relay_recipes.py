"""The recipes for a relay in docs/transactions.md: their commands are understood."""

from __future__ import annotations

import configparser
import json
import re
import shlex

from flask_eventcollector.cli.relay import relay
from tests.docs.reader import find_one, runs

PAGE = "docs/transactions.md"
PROCFILE, SYSTEMD, KUBERNETES = (
    find_one(page=PAGE, language=language) for language in ("text", "ini", "yaml")
)
LINE = find_one(page="docs/command-line.md", heading="The relay")


def options(command: list[str]) -> dict[str, object]:
    """What is left of *command* after ``flask … events relay``, as it is understood."""
    place = command.index("relay")
    assert command[place - 1] == "events"
    assert command[place - 3 : place - 1] == ["--app", "shop"]
    return relay.make_context("relay", command[place + 1 :]).params


@runs(PROCFILE)
def test_the_procfile_starts_a_relay() -> None:
    web, started = (line.partition(": ") for line in PROCFILE.code.splitlines())
    assert (web[0], started[0]) == ("web", "relay")
    assert not options(shlex.split(started[2]))["once"]


@runs(SYSTEMD)
def test_the_unit_starts_a_relay() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(SYSTEMD.code)
    assert not options(shlex.split(unit["Service"]["ExecStart"]))["once"]


@runs(KUBERNETES)
def test_the_deployment_starts_a_relay_with_a_probe() -> None:
    found = re.search(r"command: (\[.*\])", KUBERNETES.code)
    assert found is not None
    probed = re.search(r"httpGet: \{path: /, port: (\d+)\}", KUBERNETES.code)
    assert probed is not None
    address = options(json.loads(found[1]))["health_port"]
    assert address == ("0.0.0.0", int(probed[1]))


@runs(LINE)
def test_the_line_has_the_shape_that_is_shown() -> None:
    shape = r"(active|standby)  \d+/s  \d+ sent  \d+ waiting  oldest \d+ (s|min|h|d)\n"
    assert re.fullmatch(shape, LINE.code)
