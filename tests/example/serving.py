"""The shop as a separate process, which can be killed and started again."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from .support import DEADLINE, PYTHON, ROOT, environment, wait_for


class ServedShop:
    """A shop that ``flask run`` serves, as a user would serve it."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.address = ""
        self._variables = variables
        self._log = folder / "server.log"
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """The log of the latest process."""
        return self._log.read_text()

    def start(self) -> str:
        """Start it; returns its address once it responds."""
        with self._log.open("w") as output:
            self._server = server = subprocess.Popen(
                [*PYTHON, "-m", "flask", "--app", "example_app", "run", "--port", "0"],
                cwd=ROOT,
                env=environment(self.folder, **self._variables),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(
            lambda: bool(self._find_address()) or server.poll() is not None,
            "the server starts",
        )
        self.address = self._find_address()
        if not self.address:
            pytest.fail(f"it did not start:\n{self.log}")
        return self.address

    def kill(self) -> None:
        """Kill it as ``kill -9`` does."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(DEADLINE)

    def stop(self) -> None:
        """Ask it to exit if it is running."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait(DEADLINE)

    def post(self, path: str, **form: str) -> int:
        """Send a form; returns the status of the response."""
        request = Request(
            f"{self.address}{path}",
            data=urlencode(form).encode(),
            headers={"Accept": "application/json"},
        )
        with urlopen(request, timeout=DEADLINE) as answer:
            status: int = answer.status
            return status

    def state(self) -> dict[str, Any]:
        """Return the page's data."""
        url = f"{self.address}/state.json"
        with urlopen(url, timeout=DEADLINE) as answer:
            shown: dict[str, Any] = json.load(answer)
            return shown

    def _find_address(self) -> str:
        found = re.search(r"Running on (http://\S+)", self.log)
        return found[1] if found else ""
