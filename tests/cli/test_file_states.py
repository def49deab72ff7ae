"""Every command with a file in every state.

Whatever a command could not read, deliver or change makes its exit code non-zero, and
stands in its text and in its JSON.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from flask_eventcollector.stores.spool.admin import changes
from flask_eventcollector.stores.spool.folder import claim_orphan
from flask_eventcollector.stores.spool.journal import PAGE_SIZE, Journal
from tests.cli.support import runner
from tests.helpers import freeze, open_shop
from tests.spool.support import dead_rows, failing, leave

#: Makes the file; the processes and patches that it takes end with the test.
State = Callable[[Path, pytest.MonkeyPatch, ExitStack], Path]


def run(folder: Path, *args: str) -> Result:
    settings = {"BROKER_URL": "memory://", "SPOOL_DIR": str(folder)}
    with open_shop(BACKLOG="spool", TESTING_BROKER=True, **settings) as shop:
        result = runner(shop).invoke(args=["events", *args])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def unreadable(output: str) -> list[dict[str, str]]:
    """The JSON of a command may be one document, or one a line."""
    documents: list[dict[str, Any]]
    try:
        whole = json.loads(output)
        documents = whole if isinstance(whole, list) else [whole]
    except ValueError:
        documents = [json.loads(line) for line in output.splitlines()]
    return [item for found in documents for item in found.get("unreadable", ())]


# The states, each of a file with an event that waits, and one that is dead.


def left(folder: Path) -> Path:
    path = leave(folder, ["waits"], destination=None)
    journal = Journal.open(path)
    journal.write(dead_rows(["died"]))
    journal.close()
    return path


def newer(folder: Path, *_: object) -> Path:
    path = left(folder)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {(0x4543 << 16) | 4}")
        connection.execute("PRAGMA user_version = 4")
    connection.close()
    return path


def damaged(folder: Path, *_: object) -> Path:
    path = left(folder)
    path.write_bytes(b"?" * PAGE_SIZE + path.read_bytes()[PAGE_SIZE:])
    return path


def quarantined(folder: Path, *_: object) -> Path:
    claim = claim_orphan(left(folder))
    assert claim is not None
    return claim.quarantine()


def foreign(folder: Path, *_: object) -> Path:
    path = left(folder)
    if os.geteuid():
        path.chmod(0)
    else:
        os.chown(path, 4711, -1)
    return path


def frozen(folder: Path, patch: pytest.MonkeyPatch, until_the_end: ExitStack) -> Path:
    patch.setattr(changes, "PATIENCE", 0.2)
    path = left(folder)
    code = (
        "import sys; from pathlib import Path\n"
        "from flask_eventcollector.stores.spool.folder import claim_orphan\n"
        "claim = claim_orphan(Path(sys.argv[1]))\n"
        "print('locked', flush=True)\n"
        "input()\n"
    )
    process = until_the_end.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    )
    until_the_end.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    freeze(process.pid)
    return path


def unreadable_folder(folder: Path, patch: pytest.MonkeyPatch, *_: object) -> Path:
    left(folder)
    patch.setattr(os, "listdir", failing(PermissionError(13, "Permission denied")))
    return folder


COMMANDS: dict[str, list[str]] = {
    "status": ["status"],
    "list": ["list"],
    "list --limit 1": ["list", "--limit", "1"],
    "dead": ["dead"],
    "show": ["show", "waits"],
    "flush": ["flush", "--timeout", "10"],
    "retry": ["retry", "died"],
    "retry --all": ["retry", "--all", "--yes"],
    "retry --to": ["retry", "--queue", "*", "--to", "elsewhere", "--yes"],
    "purge": ["purge", "waits", "--yes"],
    "purge --dead": ["purge", "--dead", "--yes"],
    "adopt": ["adopt", "FILE", "--yes"],
    "quarantine list": ["quarantine", "list"],
    "quarantine remove --all": ["quarantine", "remove", "--all", "--yes"],
    "export": ["export", "EXPORTED"],
    "export --remove": ["export", "EXPORTED", "--remove"],
    "import": ["import", os.devnull],
}

#: The exit codes; ``0``: the command can do all it is asked for.
OF_THE_QUARANTINE = {"quarantine list": 0, "quarantine remove --all": 0}
EVERYTHING_IS_LEFT = (
    dict.fromkeys(COMMANDS, 3) | {"show": 1, "retry": 1, "purge": 1} | OF_THE_QUARANTINE
)
EXPECTED: dict[State, dict[str, int]] = {
    newer: EVERYTHING_IS_LEFT,
    damaged: EVERYTHING_IS_LEFT,
    quarantined: EVERYTHING_IS_LEFT | {"adopt": 1},
    foreign: EVERYTHING_IS_LEFT,
    frozen: dict.fromkeys(COMMANDS, 3)
    | OF_THE_QUARANTINE
    | dict.fromkeys(("list", "list --limit 1", "dead", "show", "export", "import"), 0),
    unreadable_folder: dict.fromkeys(COMMANDS, 1),
}
TABLE = [
    pytest.param(state, command, code, id=f"{state.__name__}, {command}")
    for state, row in EXPECTED.items()
    for command, code in row.items()
]


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize(("state", "command", "code"), TABLE)
def test_what_is_left_is_said_and_decides_the_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: State,
    command: str,
    code: int,
    is_json: bool,
) -> None:
    folder = tmp_path / "spool"
    with monkeypatch.context() as patch, ExitStack() as until_the_end:
        path = state(folder, patch, until_the_end)
        names = {"FILE": path.name, "EXPORTED": str(tmp_path / "exported")}
        args = [names.get(arg, arg) for arg in COMMANDS[command]]

        result = run(folder, *args, *["--json"] * is_json)

    assert result.exit_code == code, result.output
    # A frozen process's file can be read, and its status is that events are waiting.
    is_said = code and not (state is frozen and command == "status")
    assert "No events are" not in result.stdout or not is_said
    if is_json:
        problems = unreadable(result.stdout)
        assert all(problem["reason"] for problem in problems)
        paths = [problem["path"].removesuffix(".quarantined") for problem in problems]
        assert paths == [str(path).removesuffix(".quarantined")] * bool(is_said)
    else:
        assert (path.name in result.stderr) == bool(is_said)
