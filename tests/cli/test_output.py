"""Commands that can't write their output: to a full disk, or into a closed pipe."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeAlias

import pytest
from sqlalchemy import MetaData, create_engine

from flask_eventcollector import make_outbox_table
from flask_eventcollector.cli.commands import COMMANDS
from flask_eventcollector.monitoring.history.records import Line
from flask_eventcollector.monitoring.history.writer import HistoryWriter
from flask_eventcollector.stores.spool.admin.reading import ids_from
from flask_eventcollector.stores.spool.folder import Folder
from tests.cli.support import FlaskEvents
from tests.spool.support import APP, HERE, leave

#: What a command prints, and whether it succeeds.
Run: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]

NOT_WRITTEN = (
    "Error: Can't write the output: No space left on device. What the command had to"
    " change is changed\n"
)

#: ID stands for the id of an event, FILE for a file with exported ones.
TABLE = [
    "status",
    "status --json",
    "list",
    "list --json",
    "dead",
    "show ID --payload",
    "why ID",
    "why ID --json",
    "tail --since 1h --for 0",
    "tail --since 1h --for 0 --json",
    "top --once",
    "flush --timeout 0.1",
    "retry --all",
    "retry --queue q --to other --yes",
    "purge ID --yes",
    "adopt --from shop --yes",
    "export",
    "export - ID",
    "import FILE",
    "quarantine list",
    "quarantine remove --all --yes",
    "outbox check",
    "outbox ddl",
    "relay --once --timeout 0.1 --json",
    "doctor",
    "list --help",
]
#: The others end in the same way, and each takes a process.
QUICK = ("list", "why ID --json", "purge ID --yes", "export", "doctor")
ID = "some-event"
#: They need more than an app, and end in the same way.
LEFT_OUT = {"topology", "purge-seen", "verify"}


pytestmark = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="no disk is full here"
)


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Run:
    """Runs a command whose output goes to a file."""
    leave(folder, [ID])
    writer = HistoryWriter(tmp_path / "history", APP)
    writer.begin()
    line = {"at": time.time(), "what": "sent", "ids": [ID], "queue": "q"}
    writer.write([Line.from_json(json.dumps(line))])
    url = f"sqlite:///{tmp_path / 'app.db'}"
    metadata = MetaData()
    make_outbox_table(metadata)
    metadata.create_all(create_engine(url))
    events = FlaskEvents(folder, HERE.addresses[0])
    # With it, a write fails at once, and not when its buffer is flushed.
    events.environment.pop("PYTHONUNBUFFERED", None)
    events.environment |= {
        "FLASK_APP": "tests.cli.outbox_app",
        "DATABASE_URL": url,
        "FLASK_EVENTCOLLECTOR_HISTORY_DIR": str(tmp_path / "history"),
    }
    exported = tmp_path / "exported.jsonl"
    exported.touch()
    named = {"ID": ID, "FILE": str(exported)}

    def run(command: str, output: IO[str]) -> subprocess.CompletedProcess[str]:
        args = [named.get(arg, arg) for arg in command.split()]
        with events.started(*args, stdout=output) as process:
            _, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, "", errors)

    return run


def test_the_table_is_complete() -> None:
    assert {command.split()[0] for command in TABLE} == COMMANDS.keys() - LEFT_OUT


@pytest.mark.parametrize(
    "command",
    [pytest.param(it, marks=[pytest.mark.slow] * (it not in QUICK)) for it in TABLE],
)
def test_a_full_disk_is_told(run: Run, command: str) -> None:
    with open("/dev/full", "w") as full:
        result = run(command, full)
    assert NOT_WRITTEN in result.stderr
    assert "Exported" not in result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == 1


@pytest.mark.parametrize("command", ["list", "list --json", "export", "why ID --json"])
def test_a_closed_pipe_is_no_failure(run: Run, command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        result = run(command, pipe)
    assert result.stderr == ""


def test_an_error_is_told_also_if_its_json_can_not_be_written(
    run: Run, folder: Path
) -> None:
    (path,) = Folder(folder, APP, HERE).files()
    path.write_bytes(b"x" * 5000)
    with open("/dev/full", "w") as full:
        result = run("show 0000 --json", full)
    assert "Error: No such event" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == 1


def test_a_change_is_complete_if_only_its_output_fails(run: Run, folder: Path) -> None:
    with open("/dev/full", "w") as full:
        run("purge ID --yes", full)
    assert ids_from(Folder(folder, APP, HERE), "") == set()
