"""``flask events`` in separate processes."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from flask.testing import FlaskCliRunner

from tests.helpers import Shop

ROOT = Path(__file__).parents[2]

#: Seconds: longer than any command should take on a busy machine.
DEADLINE = 60.0


#: Runs a command in this process.
Run = Callable[..., Result]

#: A process that holds a file, and does not answer requests.
_HOLDER = """
from pathlib import Path
from flask_eventcollector.stores.spool.folder import claim_orphan
claim = claim_orphan(Path({path!r}))
print('locked', flush=True)
input()
"""


def runner(shop: Shop) -> FlaskCliRunner:
    """A runner that keeps stderr apart, which click before 8.2 does only if asked."""
    can_mix = "mix_stderr" in inspect.signature(CliRunner).parameters
    return shop.test_cli_runner(**({"mix_stderr": False} if can_mix else {}))


class FlaskEvents:
    """Calls the commands like a user, in a shell of the app's user."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLASK_")}
        self.environment = inherited | {
            "FLASK_APP": "tests.cli.shop_app",
            "FLASK_EVENTCOLLECTOR_BROKER_URL": url,
            "FLASK_EVENTCOLLECTOR_BACKLOG": "spool",
            "FLASK_EVENTCOLLECTOR_SPOOL_DIR": str(folder),
        }

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a command until it ends."""
        with self.started(*args) as process:
            output, errors = process.communicate(timeout=3 * DEADLINE)
        return subprocess.CompletedProcess(
            process.args, process.returncode, output, errors
        )

    def json(self, *args: str) -> Any:
        """The JSON output of a command."""
        return json.loads(self(*args, "--json").stdout)

    @contextmanager
    def started(self, *args: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
        """Start a command, which is ended with the block at the latest."""
        command = ["-m", "flask", "events", *args]
        with self._started(command, stdin=subprocess.DEVNULL, **more) as process:
            yield process

    @contextmanager
    def python(self, code: str) -> Iterator[subprocess.Popen[str]]:
        """Start a worker of the same app, which ends with the block."""
        with self._started(["-c", code], stdin=subprocess.PIPE) as process:
            yield process

    @contextmanager
    def holding(self, path: Path) -> Iterator[subprocess.Popen[str]]:
        """Start a process that holds *path*, and does not answer requests."""
        with self.python(_HOLDER.format(path=str(path))) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process

    @contextmanager
    def _started(self, args: list[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-X", "utf8", *args],
            cwd=ROOT,
            env=self.environment,
            text=True,
            **(pipes | more),
        )
        with process:
            try:
                yield process
            finally:
                process.kill()
