"""What ``flask events doctor`` writes, and how it ends.

``tests/doctor`` has what it finds.
"""

from __future__ import annotations

import json
import socket
from typing import Any

import click
import pytest
from click.testing import Result

from flask_eventcollector.cli import doctor
from flask_eventcollector.doctor.findings import ok, problem, warning
from tests.cli.support import runner
from tests.helpers import open_shop


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*args: str, **settings: Any) -> Result:
    with open_shop(TESTING_BROKER=True, **settings) as shop:
        return runner(shop).invoke(args=["events", "doctor", *args])


def test_a_sound_set_up_exits_with_0() -> None:
    result = run(BROKER_URL="memory://")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith(
        "Everything that can be seen from here is in order.\n"
    )
    assert "ok       settings  " in result.stdout


def test_warnings_alone_exit_with_0() -> None:
    result = run(BROKER_URL="memory://", HEARTBEAT=600)
    assert result.exit_code == 0
    assert "\nwarning  settings  EVENTCOLLECTOR_HEARTBEAT is 600 s: " in result.stdout
    assert result.stdout.endswith("\n0 problems and 1 warning.\n")


def test_a_problem_exits_with_3_and_shows_no_credential() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"amqp://the-user:the-planted-password@127.0.0.1:{port}/crm"
    result = run(BROKER_URL=url)
    assert result.exit_code == 3
    shown = f"\nproblem  broker    amqp://127.0.0.1:{port}/crm: Connection refused: see"
    assert shown in result.stdout
    assert "\nwarning  topology  not examined" in result.stdout
    assert "the-planted-password" not in result.output
    assert "the-user" not in result.output


def test_machines_get_all_of_it() -> None:
    result = run("--json", BROKER_URL="memory://", HEARTBEAT=600)
    said = json.loads(result.stdout)
    assert (result.exit_code, said["app"], said["status"]) == (0, "shop", "warning")
    (finding,) = (f for f in said["findings"] if f["level"] != "ok")
    assert finding.keys() == {"level", "about", "what", "cure"}
    assert finding["cure"] == "set it to 5 to 60, or leave it out"


def test_on_a_terminal_lines_are_wrapped_below_their_text() -> None:
    finding = problem("queue 'a\x1b' is\nmissing", "declare " + "it " * 20)
    first, *rest = doctor._lines(finding._replace(about="topology"), 60)
    assert first.endswith("topology  queue 'a\\x1b' is\\nmissing: declare it it")
    assert rest
    assert all(line.startswith(" " * 19 + "it") for line in rest)


def test_elsewhere_each_finding_is_one_line() -> None:
    finding = warning("a " * 100, "b " * 100)._replace(about="host")
    assert len(doctor._lines(finding, 0)) == 1
    assert doctor._lines(ok(""), 80) == [click.style("ok       ", "green") + " " * 10]
