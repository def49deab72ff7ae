"""Real workers that run the app under test, and can be ended at will."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.helpers import unmeasured
from tests.rabbitmq import free_ports

ROOT = Path(__file__).parents[2]
APP = "tests.faults.app:create_app()"

START_TIMEOUT = 30.0
CALL_TIMEOUT = 30.0
END_TIMEOUT = 30.0
POLL = 0.01


class HostError(RuntimeError):
    """A host did not start or end as requested."""


@dataclass(frozen=True)
class Kind:
    """One way to serve the app."""

    name: str
    #: The package that it needs.
    package: str
    #: The command, for a port and a number of workers.
    command: Callable[[int, int], list[str]]
    #: Whether the workers are children of the process that is started.
    forks: bool = True
    #: Whether each worker creates a marker file when it is ready.
    marks: bool = False
    #: Whether it serves requests; otherwise it gets its work in another way.
    serves: bool = True

    @property
    def missing(self) -> str | None:
        """What is not installed; ``None``: nothing is missing."""
        if self.package == "uwsgi":  # It is a program, not a module.
            return None if shutil.which(_bin("uwsgi")) else "uWSGI"
        found = importlib.util.find_spec(self.package)
        return None if found else f"the Python package {self.package}"


def _bin(program: str) -> str:
    """A program in this Python's environment."""
    return str(Path(sys.executable).parent / program)


def _gunicorn(worker: str, *options: str) -> Callable[[int, int], list[str]]:
    return lambda port, workers: [
        *(sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"),
        # It would be one file for all that the user runs.
        "--no-control-socket",
        *("--config", "python:tests.faults.gunicorn_conf"),
        *("--workers", str(workers), "--worker-class", worker, *options, APP),
    ]


def _uwsgi(*options: str) -> Callable[[int, int], list[str]]:
    return lambda port, workers: [
        *(_bin("uwsgi"), "--http-socket", f"127.0.0.1:{port}", "--master"),
        *("--processes", str(workers), "--die-on-term", "--need-app"),
        *("--module", "tests.faults.app", "--callable", "create_app()", *options),
    ]


def _waitress(port: int, _workers: int) -> list[str]:
    listen = ("--listen", f"127.0.0.1:{port}", "--threads", "8")
    return [sys.executable, "-m", "waitress", *listen, "--call", APP[:-2]]


def _celery(_port: int, workers: int) -> list[str]:
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    return [
        *(sys.executable, "-m", "celery", "--app", "tests.faults.celery_app", "worker"),
        *("--concurrency", str(workers), "--loglevel", "WARNING", *quiet),
    ]


def _script(_port: int, _workers: int) -> list[str]:
    return [sys.executable, "-m", "tests.faults.script"]


def _relay(_port: int, _workers: int) -> list[str]:
    app = ("--app", "tests.faults.app:create_app")
    return [sys.executable, "-m", "flask", *app, "events", "relay", "--json"]


def _naive_relay(_port: int, _workers: int) -> list[str]:
    return [sys.executable, "-m", "tests.faults.naive_outbox"]


_THREADS = ("--threads", "8")


def _kinds() -> Iterator[Kind]:
    for worker in ("sync", "gthread", "gevent"):
        package = "gevent" if worker == "gevent" else "gunicorn"
        options = _THREADS if worker == "gthread" else ()
        for name, more in {"": (), "-preload": ("--preload",)}.items():
            command = _gunicorn(worker, *options, *more)
            yield Kind(f"gunicorn-{worker}{name}", package, command, marks=True)
    yield Kind("uwsgi", "uwsgi", _uwsgi())
    yield Kind("uwsgi-enable-threads", "uwsgi", _uwsgi("--enable-threads"))
    yield Kind("uwsgi-threads", "uwsgi", _uwsgi(*_THREADS))
    lazy = _uwsgi("--enable-threads", "--lazy-apps")
    yield Kind("uwsgi-lazy-apps", "uwsgi", lazy, marks=True)
    gevent = _uwsgi("--gevent", "8", "--gevent-early-monkey-patch")
    yield Kind("uwsgi-gevent", "uwsgi", gevent)
    yield Kind("waitress", "waitress", _waitress, forks=False)
    yield Kind("celery", "celery", _celery, serves=False)
    yield Kind("script", "flask", _script, forks=False, serves=False)
    yield Kind("relay", "flask", _relay, forks=False, serves=False)
    naive = _naive_relay
    yield Kind("naive-relay", "sqlalchemy", naive, forks=False, serves=False)


#: By name.
KINDS = {kind.name: kind for kind in _kinds()}


class Host:
    """Workers of one kind, in separate processes.

    Start it in a thread that outlives it: when the thread ends, however the test run
    ends, the host is killed.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        queue: str,
        workers: int = 1,
        options: Iterable[str] = (),
        publisher: str = "library",
        asks: Mapping[str, str | int] | None = None,
    ) -> None:
        self.kind = KINDS[kind]
        self.folder = folder
        #: The side file, with a line for each attempted event.
        self.side_file = folder / "side-file"
        self.workers = workers
        (self.port,) = free_ports(1)
        self._options = list(options)
        self._environment = environment(folder, settings, queue)
        for name, value in {"PUBLISHER": publisher, **(asks or {})}.items():
            self._environment[f"FLASK_FAULTS_{name}"] = str(value)
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Host:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process that was started: a master, where there is one."""
        return self._started.pid

    @property
    def code(self) -> int | None:
        """How the process has ended; ``None``: it has not."""
        return self._started.poll()

    @property
    def log(self) -> str:
        """The log of all of its processes."""
        return self._log.read_text(errors="replace")

    @property
    def worker_pids(self) -> list[int]:
        """The processes that answer requests."""
        return children_of(self.pid) if self.kind.forks else [self.pid]

    # Life

    def start(self) -> None:
        """Start it; returns when it responds, and all of its workers are ready."""
        self.launch()
        if self.kind.serves:
            wait_for(self._answers, f"{self.kind.name} to answer", START_TIMEOUT)
            self.wait_until_complete()

    def wait_until_complete(self) -> None:
        """Wait until all workers are ready, including replacements of ended ones."""
        wait_for(self._is_complete, f"{self.kind.name}'s workers", START_TIMEOUT)

    def launch(self) -> None:
        """Start it; does not wait for it."""
        if self._process is not None and self.code is None:
            return
        _hear_interrupts()
        command = [*self.kind.command(self.port, self.workers), *self._options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_with_its_parent(), *command],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send the process that was started a signal."""
        self._started.send_signal(number)

    def wait(self, timeout: float = END_TIMEOUT) -> float:
        """Wait until the process has ended; returns the seconds that it took."""
        began = time.monotonic()
        try:
            self._started.wait(timeout)
        except subprocess.TimeoutExpired:
            raise HostError(f"{self.kind.name} did not end:\n{self.log}") from None
        return time.monotonic() - began

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """End it by a signal; returns the seconds that it took."""
        self.send(number)
        return self.wait()

    def kill_worker(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """End one worker; its master may start another."""
        os.kill(pid, number)
        wait_for(lambda: not is_running(pid), f"the end of {pid}", END_TIMEOUT)

    def reload(self) -> None:
        """Replace all workers, as for a new version of the app."""
        before = set(self.worker_pids)
        self.send(signal.SIGHUP)
        wait_for(
            lambda: before.isdisjoint(self.worker_pids), "new workers", START_TIMEOUT
        )
        self.wait_until_complete()

    def close(self) -> None:
        """Kill all processes that are left."""
        if self._process is not None:
            # It has its own process group, whose id outlives it.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(END_TIMEOUT)

    # Requests

    def order(self, number: int, events: int = 1, **query: str | int) -> list[str]:
        """Place an order; returns the keys that were acknowledged."""
        keys: list[str] = self.post(f"/orders/{number}", events=events, **query)
        return keys

    def post(self, path: str, **query: str | int | float) -> Any:
        """Send a POST request; returns the response, or raises OSError."""
        return self._ask("POST", path, query)

    def get(self, path: str, **query: str | int | float) -> Any:
        """Send a GET request; returns the response, or raises OSError."""
        return self._ask("GET", path, query)

    def stats(self) -> dict[str, Any]:
        """The counts of the worker that happens to respond."""
        found: dict[str, Any] = self.get("/stats")
        return found

    def last_books(self) -> dict[int, dict[str, Any]]:
        """The counts that ended processes have left, by process id."""
        files = (self.folder / "books").glob("*.json")
        return {int(file.stem): json.loads(file.read_text()) for file in files}

    def _ask(self, method: str, path: str, query: Mapping[str, Any]) -> Any:
        words = "&".join(f"{name}={value}" for name, value in query.items())
        with _connection(self.port) as connection:
            connection.request(method, f"{path}?{words}")
            answer = connection.getresponse()
            body = answer.read()
        if answer.status >= 400:
            raise HostError(f"{path} was answered {answer.status}:\n{self.log}")
        return json.loads(body)

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process

    def _answers(self) -> bool:
        if self.code is not None:
            raise HostError(f"{self.kind.name} ended as it started:\n{self.log}")
        try:
            return bool(self.stats())
        except OSError:
            return False

    def _is_complete(self) -> bool:
        up = self.worker_pids
        if self.kind.marks:
            up = [pid for pid in up if (self.folder / "books" / f"{pid}.up").exists()]
        return len(up) >= (self.workers if self.kind.forks else 1)


@contextmanager
def _connection(port: int) -> Iterator[HTTPConnection]:
    connection = HTTPConnection("127.0.0.1", port, timeout=CALL_TIMEOUT)
    try:
        yield connection
    except HTTPException as error:
        # The worker ended in the middle of its response.
        raise ConnectionError(repr(error)) from error
    finally:
        connection.close()


def environment(
    folder: Path, settings: Mapping[str, Any], queue: str
) -> dict[str, str]:
    """The environment of the app under test, with the library's *settings*."""
    (folder / "books").mkdir(parents=True, exist_ok=True)
    written = {
        f"FLASK_EVENTCOLLECTOR_{name}": value
        if isinstance(value, str)
        else json.dumps(value)
        for name, value in {"QUEUES": {queue: {}}, **settings}.items()
    }
    return {
        **unmeasured(),
        "PYTHONPATH": str(ROOT),
        "FLASK_FAULTS_QUEUE": queue,
        "FLASK_FAULTS_SIDE_FILE": str(folder / "side-file"),
        "FLASK_FAULTS_STATS": str(folder / "books"),
        "FLASK_FAULTS_TASKS": str(folder / "tasks"),
        **written,
    }


def _hear_interrupts() -> None:
    """A shell ignores SIGINT for background processes, which is inherited."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _with_its_parent() -> list[str]:
    """A prefix that ends a program together with the thread that started it."""
    program = shutil.which("setpriv")
    return [program, "--pdeathsig", "KILL"] if program else []


def children_of(pid: int) -> list[int]:
    """The running child processes of *pid*."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    with suppress(FileNotFoundError):
        return [
            child for child in map(int, file.read_text().split()) if is_running(child)
        ]
    return []


def is_running(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def wait_for(condition: Callable[[], object], what: str, timeout: float) -> None:
    """Poll until *condition* holds; fails after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise HostError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(POLL)
