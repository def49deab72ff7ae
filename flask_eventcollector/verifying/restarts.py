"""Ways to restart the broker."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress

from .node import PrivateNode

#: Restarts the broker; calls what it gets again and again while it waits.
Restart = Callable[[Callable[[], None]], None]

#: Seconds that a command may take.
TIMEOUT = 120.0
#: Seconds that a private node stays down.
_DOWN = 1.0
#: The last characters of a command's output that an error shows.
_TAIL = 400


class RestartFailed(Exception):
    """A command did not restart the broker."""


class RestartCommand:
    """A command of the user, without a shell.

    :raises ValueError: *text* is no command.
    """

    def __init__(self, text: str) -> None:
        self._words = shlex.split(text)
        if not self._words:
            raise ValueError("it is empty")
        if shutil.which(self._words[0]) is None:
            raise ValueError(f"there is no program {self._words[0]!r}")

    def __call__(self, tick: Callable[[], None]) -> None:
        """Run it to its end.

        :raises RestartFailed: it fails, or takes more than two minutes.
        """
        with tempfile.TemporaryFile() as output:
            try:
                process = subprocess.Popen(  # noqa: S603 - the user has named it
                    self._words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # The user's Ctrl-C must not leave the broker half restarted.
                    start_new_session=True,
                )
            except OSError as error:
                raise RestartFailed(f"{self._words[0]}: {error.strerror}") from error
            code = _await(process, tick)
            output.seek(0)
            said = output.read().decode(errors="replace").strip()[-_TAIL:]
        if code != 0:
            how = "took too long" if code is None else f"ended with {code}"
            what = f"{shlex.join(self._words)} {how}"
            raise RestartFailed(f"{what}: {said or 'without a word'}")


def _await(process: subprocess.Popen[bytes], tick: Callable[[], None]) -> int | None:
    """Wait for its end, also if *tick* raises: a restart must not stay half done.

    Returns its exit code; ``None``: it took too long, and was killed.
    """
    deadline, is_late = time.monotonic() + TIMEOUT, False
    try:
        while process.poll() is None and time.monotonic() < deadline:
            tick()
    finally:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            is_late = True
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return None if is_late else process.returncode


def restarting(node: PrivateNode) -> Restart:
    """Kills a private node with ``kill -9``, and starts it again a moment later."""

    def restart(tick: Callable[[], None]) -> None:
        node.kill()
        until = time.monotonic() + _DOWN
        while time.monotonic() < until:
            tick()
        node.start()

    return restart
