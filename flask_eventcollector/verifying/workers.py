"""The processes under load, of which one is killed now and then."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any

from .worker import READY, Job

#: The module that workers run; tests run one that breaks promises.
PROGRAM = "flask_eventcollector.verifying.worker"

#: Seconds that a worker may take to start, and to end.
_START, _END = 60.0, 15.0
#: How many connections may wait for a worker.
_WAITING = 128
#: The last characters of a worker's log that an error shows.
_TAIL = 1_000


class WorkerFailed(Exception):
    """A worker did not start, or ended on its own."""


class Workers:
    """Some processes of the app, which serve requests to one port of this machine.

    Inside a ``with`` block, they run. Not thread-safe.

    :param settings: the app's settings.
    :param folder: where their logs and the side file are.
    """

    def __init__(
        self, number: int, settings: Mapping[str, Any], queue: str, folder: Path
    ) -> None:
        self._number = number
        self._settings, self._queue = dict(settings), queue
        self.side_file = folder / "side-file"
        self._log = folder / "workers.log"
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_WAITING)
        self._running: list[subprocess.Popen[str]] = []
        #: The ids of those that were killed.
        self.killed: set[int] = set()

    @property
    def port(self) -> int:
        """Where they serve requests."""
        return int(self._listener.getsockname()[1])

    @property
    def pids(self) -> set[int]:
        """Those that run."""
        return {process.pid for process in self._running}

    def __enter__(self) -> Workers:
        try:
            for _ in range(self._number):
                self._start()
            for process in self._running:
                self._await_ready(process)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def kill_one(self, choice: float) -> None:
        """Kill one with ``kill -9``, and start another one in its place.

        :param choice: which one, as a number from 0 to 1.
        :raises WorkerFailed: the new one does not start.
        """
        victim = self._running.pop(int(choice * len(self._running)))
        victim.kill()
        _reap(victim)
        self.killed.add(victim.pid)
        self._await_ready(self._start())

    def check(self) -> None:
        """Check that all run.

        :raises WorkerFailed: one has ended on its own.
        """
        for process in self._running:
            if process.poll() is not None:
                raise self._failure(f"ended with {process.returncode}")

    def stats(self) -> dict[str, Any]:
        """The counts of the one that answers; without any, if none does."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/stats", headers={"Connection": "close"})
            counts: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, HTTPException, ValueError):
            return {}
        finally:
            connection.close()
        return counts

    def end(self) -> None:
        """End them in order, as a deployment does."""
        for process in self._running:
            process.terminate()
        deadline = time.monotonic() + _END
        for process in self._running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        self._close()

    def _start(self) -> subprocess.Popen[str]:
        job = Job(
            self._settings, self._queue, str(self.side_file), self._listener.fileno()
        )
        with self._log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - a module of this package
                [sys.executable, "-m", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=[self._listener.fileno()],
                # The user's Ctrl-C is for the parent.
                start_new_session=True,
            )
        self._running.append(process)
        assert process.stdin is not None  # noqa: S101 - it was asked for
        with suppress(BrokenPipeError):
            process.stdin.write(f"{json.dumps(asdict(job))}\n")
            process.stdin.flush()
        return process

    def _await_ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        found, _, _ = select.select([process.stdout], [], [], _START)
        if not found:
            raise self._failure(f"did not start within {_START:.0f} s")
        if process.stdout.readline() != READY:
            raise self._failure("did not start")

    def _failure(self, what: str) -> WorkerFailed:
        text = self._log.read_text(errors="replace")[-_TAIL:].strip()
        return WorkerFailed(f"a worker {what}: {text or 'it has logged nothing'}")

    def _close(self) -> None:
        for process in self._running:
            process.kill()
            _reap(process)
        self._running.clear()
        self._listener.close()


def _reap(process: subprocess.Popen[str]) -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
