"""A private RabbitMQ node, which may be killed and started again.

It shares nothing with a node of the system: it has its own name, ports, folders, Erlang
cookie and port mapper. It ends with the process that started it.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..brokers.rabbitmq.inspection import BrokerUnreachable, connecting
from ..brokers.rabbitmq.logins import Logins
from ..brokers.rabbitmq.pika_logging import pika_silenced
from ..config.broker_url import BrokerURL
from . import keeper

#: Below the ports that systems assign to clients. A client that keeps trying a port of
#: that range without a listener ends up connected to itself, and the node could not
#: start again.
PORTS = range(15_000, 30_000)

# The program that Debian puts on PATH can only run the system's node, as the system's
# user.
_DEBIAN_WRAPPER = Path("/usr/sbin/rabbitmq-server")
_DEBIAN_PROGRAMS = Path("/usr/lib/rabbitmq/bin")

_CONFIG = """
listeners.tcp.1 = 127.0.0.1:%d
disk_free_limit.absolute = 1MB
"""

# Erlang resolves names by the name server; without one, each takes seconds.
_INETRC = """
{lookup, [file]}.
{host, {127,0,0,1}, ["localhost", "%s"]}.
"""

#: Seconds that its start may take, and between two attempts to connect.
_START, _POLL = 90.0, 0.2
_HEARTBEAT = 10
#: The last characters of the node's log that an error shows.
_TAIL = 1_000

_numbers = itertools.count(1)


def find_programs() -> Path | None:
    """The folder of RabbitMQ's programs, or None.

    It is `$RABBITMQ_BIN`, else the folder of the `rabbitmq-server` on PATH, else
    Debian's /usr/lib/rabbitmq/bin.
    """
    if folder := os.environ.get("RABBITMQ_BIN"):
        return Path(folder)
    on_path = shutil.which("rabbitmq-server")
    if on_path and Path(on_path).resolve() not in _debian_wrappers():
        return Path(on_path).parent
    is_there = (_DEBIAN_PROGRAMS / "rabbitmq-server").exists()
    return _DEBIAN_PROGRAMS if is_there else None


def _debian_wrappers() -> set[Path]:
    # /sbin may be a link to /usr/sbin, and the wrapper a link to a shared script.
    script = _DEBIAN_PROGRAMS / "rabbitmq-script-wrapper"
    return {_DEBIAN_WRAPPER, _DEBIAN_WRAPPER.resolve(), script.resolve()}


def free_ports(number: int, among: Sequence[int] = PORTS) -> list[int]:
    """Unused ports of this machine, chosen at random."""
    candidates = random.sample(among, k=min(200, len(among)))
    return list(itertools.islice(filter(_is_free, candidates), number))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def clean_environment(given: Mapping[str, str]) -> dict[str, str]:
    """*given* without variables that refer to the system's node."""
    private = ("RABBITMQ_", "ERL_")
    kept = {k: v for k, v in given.items() if not k.startswith(private)}
    return kept | {
        "LC_ALL": "C.UTF-8",
        "RABBITMQ_CONF_ENV_FILE": "/nonexistent",
    }


def environment_in(
    folder: Path, given: Mapping[str, str], distribution: int, epmd: int
) -> dict[str, str]:
    """What a node with its files in *folder* gets, besides what is *given*.

    :param distribution: the port for other nodes.
    :param epmd: the port of the port mapper.
    """
    return clean_environment(given) | {
        "HOME": str(folder),  # for the Erlang cookie
        "ERL_EPMD_PORT": str(epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_INETRC": str(folder / "inetrc"),
        "ERL_CRASH_DUMP_SECONDS": "0",
        "RABBITMQ_NODENAME": f"private-{os.getpid()}-{next(_numbers)}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        # The script becomes the node instead of waiting for it, so there is one process
        # to end.
        "RABBITMQ_ALLOW_INPUT": "1",
        # If bound to cores, the schedulers of two nodes would share the first ones.
        "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +S 2:2",
    }


def write_files(
    folder: Path, port: int, plugins: Sequence[str] = (), config: str = ""
) -> None:
    """Write the files of a node into its folder.

    :param config: more lines for its ``rabbitmq.conf``.
    """
    files = {
        "enabled_plugins": f"[{','.join(plugins)}].",
        "rabbitmq.conf": _CONFIG % port + config,
        "inetrc": _INETRC % socket.gethostname(),
    }
    for name, text in files.items():
        (folder / name).write_text(text)


def start_kept(
    folder: Path, program: Path, environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a server that ends with this process; returns its keeper."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - the program that was found
            [sys.executable, keeper.__file__, folder, str(os.getpid()), program],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


class NodeFailed(Exception):
    """A node does not run."""


class PrivateNode:
    """A node with its files in *folder*, which exists: `start()` it, then `kill()` it.

    :param programs: the folder of RabbitMQ's programs.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self.port, distribution, epmd = free_ports(3)
        self._server = programs / "rabbitmq-server"
        self._environment = environment_in(folder, os.environ, distribution, epmd)
        self._keeper: subprocess.Popen[bytes] | None = None
        write_files(folder, self.port)

    @property
    def url(self) -> BrokerURL:
        """Its only virtual host."""
        return BrokerURL("amqp", "127.0.0.1", self.port)

    @property
    def is_running(self) -> bool:
        """Whether its process runs; it may not accept connections yet."""
        return self._keeper is not None and self._keeper.poll() is None

    @property
    def last_words(self) -> str:
        """The end of its log."""
        try:
            return self._log.read_text(errors="replace")[-_TAIL:].strip()
        except OSError:
            return ""

    def start(self) -> None:
        """Start it, with its earlier data. It accepts connections some seconds later.

        :raises OSError: it can't be started.
        """
        arguments = self.folder, self._server, self._environment, self._log
        self._keeper = start_kept(*arguments)

    def await_start(self) -> None:
        """Wait until it accepts connections.

        :raises NodeFailed: it does not within 90 seconds, or it has ended.
        """
        connect = connecting([self.url], _HEARTBEAT, "start", Logins(None, None, ""))
        deadline = time.monotonic() + _START
        while self.is_running and time.monotonic() < deadline:
            with pika_silenced(), suppress(BrokerUnreachable):
                connect().close()
                return
            time.sleep(_POLL)
        raise NodeFailed(f"a private RabbitMQ did not start: {self.last_words}")

    def kill(self) -> None:
        """Kill it; its data stays for the next `start()`."""
        if self._keeper is not None:
            # The keeper leads its own process group.
            with suppress(ProcessLookupError):
                os.killpg(self._keeper.pid, signal.SIGKILL)
            self._keeper.wait()

    @property
    def _log(self) -> Path:
        return self.folder / "node.log"


@contextmanager
def private_node(programs: Path) -> Iterator[PrivateNode]:
    """A node that runs during the block, and then is gone with its data.

    :raises NodeFailed: it does not start.
    """
    prefix = "eventcollector-rabbitmq-"
    with tempfile.TemporaryDirectory(
        prefix=prefix, ignore_cleanup_errors=True
    ) as folder:
        node = PrivateNode(programs, Path(folder))
        try:
            node.start()
            node.await_start()
            yield node
        finally:
            node.kill()
