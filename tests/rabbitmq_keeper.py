"""Runs a RabbitMQ node that ends with the test run, however the test run ends.

Started by `tests.rabbitmq` as a program of its own, in a session of its own:

    python rabbitmq_keeper.py FOLDER PARENT PROGRAM
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

POLL = 0.05


def main(folder: str, parent: int, program: str) -> None:
    # Our own epmd, in the foreground: Erlang would start a daemon and leave it behind.
    epmd = _start("epmd") if shutil.which("epmd") else None
    server = _start(program)
    # The parent's id, not a pipe to it: a pipe stays open in what the tests fork.
    while server.poll() is None and os.getppid() == parent:
        time.sleep(POLL)
    for process in filter(None, (server, epmd)):
        process.kill()
        process.wait()
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    # The node's helpers end with it; this is for one that does not, and ends us too.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(0, signal.SIGKILL)


def _start(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([program], stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
