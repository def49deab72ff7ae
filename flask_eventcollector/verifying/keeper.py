"""Runs a server that ends with the process that wants it, however that one ends.

It is a program of its own, in a new session. Its arguments are the server's folder,
which is removed if the parent has ended, the id of the parent, and the server's program
with its own arguments.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

POLL = 0.05


def main(folder: str, parent: int, program: str, *arguments: str) -> None:
    # A private epmd in the foreground: Erlang would start a daemon, which would be left
    # running.
    has_epmd = Path(program).name == "rabbitmq-server" and shutil.which("epmd")
    epmd = _start("epmd") if has_epmd else None
    server = _start(program, *arguments)
    # The parent's id, not a pipe, which would stay open in processes that it forks.
    while server.poll() is None and os.getppid() == parent:
        time.sleep(POLL)
    for process in filter(None, (server, epmd)):
        process.kill()
        process.wait()
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    # The server's helpers end with it. This ends those that don't, and this process.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(0, signal.SIGKILL)


def _start(*command: str) -> subprocess.Popen[bytes]:
    # What its parent has named.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
