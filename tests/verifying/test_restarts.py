"""The user's command restarts the broker, and is bounded."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import pytest

from flask_eventcollector.verifying import restarts
from flask_eventcollector.verifying.node import PrivateNode
from flask_eventcollector.verifying.restarts import (
    RestartCommand,
    RestartFailed,
    restarting,
)


def python(code: str) -> RestartCommand:
    return RestartCommand(shlex.join([sys.executable, "-c", code]))


def tick() -> None:
    time.sleep(0.01)


def test_it_is_run_to_its_end(tmp_path: Path) -> None:
    done = tmp_path / "done"
    python(f"import pathlib; pathlib.Path({str(done)!r}).touch()")(tick)

    assert done.exists()


def test_it_has_no_shell(tmp_path: Path) -> None:
    done = tmp_path / "done"
    RestartCommand(f"true && touch {done}")(tick)

    assert not done.exists()


def test_one_that_fails_says_why() -> None:
    with pytest.raises(RestartFailed, match=r"ended with 3: not permitted$"):
        python("print('not permitted'); raise SystemExit(3)")(tick)


def test_one_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "TIMEOUT", 0.3)
    with pytest.raises(RestartFailed, match=r"took too long: without a word$"):
        python("import time; time.sleep(60)")(tick)


def test_an_interrupted_run_does_not_leave_the_broker_half_restarted(
    tmp_path: Path,
) -> None:
    done = tmp_path / "done"
    command = python(
        f"import pathlib, time; time.sleep(0.3); pathlib.Path({str(done)!r}).touch()"
    )

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command(interrupt)
    assert done.exists()


@pytest.mark.parametrize("text", ["", "  ", "true 'restart", "gone restart"])
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"empty|quotation|no program 'gone'"):
        RestartCommand(text)


def test_a_private_node_is_killed_and_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(restarts, "_DOWN", 0.05)
    node = PrivateNode(tmp_path, tmp_path)
    calls: list[str] = []
    monkeypatch.setattr(node, "kill", lambda: calls.append("killed"))
    monkeypatch.setattr(node, "start", lambda: calls.append("started"))

    restarting(node)(tick)

    assert calls == ["killed", "started"]
