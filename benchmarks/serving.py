"""Serves a view with gunicorn, and puts load on it.

The load comes from hey: eight clients, each of which sends its next request when it has
the response. All response times are counted as they were, so a stall counts once for
each client that waited. wrk isn't used, since it adds samples to its percentiles for
requests that a client would have sent during a stall.
"""

from __future__ import annotations

import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from tests.rabbitmq import RabbitMQNode, free_ports

from .results import Unavailable
from .rig import check_arrived, wait_until
from .views import NO_EVENTS, Task

RATE, MEDIAN, P99 = "requests/s", "p50, ms", "p99, ms"
CPU = "CPU, µs/request"
UNITS = (RATE, MEDIAN, P99, CPU)

CLIENTS = 8
#: How long a view is loaded before it counts, in seconds.
WARM_UP = 1.0
GTHREAD = "gthread 1 × 8"
#: gunicorn's arguments for each kind of worker.
WORKERS: dict[str, tuple[str, ...]] = {
    GTHREAD: ("--worker-class", "gthread", "--threads", "8"),
    "sync × 2": ("--worker-class", "sync", "--workers", "2"),
    "gevent": ("--worker-class", "gevent"),
}

_ROOT = Path(__file__).parent.parent
_TICK = os.sysconf("SC_CLK_TCK")


def _check_hey() -> None:
    """:raises Unavailable: hey is not installed."""
    if shutil.which("hey") is None:
        raise Unavailable("hey is not installed; Debian and Homebrew have it")


class Load(NamedTuple):
    """What the clients saw, in seconds."""

    #: Of each response.
    times: Sequence[float]
    #: From the first request to the last response.
    seconds: float


class Turns(NamedTuple):
    """How often a view gets its load within a round, and how long."""

    number: int
    seconds: float


class _Served:
    """A view that gunicorn serves."""

    def __init__(self, address: str, master: int) -> None:
        self._address, self._master = address, master
        self.requests = 0

    def load(self, seconds: float) -> dict[str, float]:
        """Put load on it; return the figures by unit."""
        before = _cpu_of_workers(self._master)
        load = _load(self._address, seconds)
        spent = _cpu_of_workers(self._master) - before
        self.requests += len(load.times)
        return _figures(load, spent)


def cost_of(
    view: str,
    worker: str,
    events: int,
    seconds: float,
    node: RabbitMQNode,
    *,
    url: str | None = None,
    fault: AbstractContextManager[object] | None = None,
) -> Mapping[str, float]:
    """Serve the view under load; each event must arrive.

    :param url: of a proxy before the node.
    :param fault: entered when the view is warm, and left before the events are counted.
    :raises Unavailable: hey is not installed.
    """
    # After a fault, some events may have been sent twice.
    most = 2 if fault else 1
    with (
        _warm(view, worker, events, node, url or node.url, most) as served,
        fault or nullcontext(),
    ):
        return served.load(seconds)


def costs_in_turns(
    views: Sequence[str],
    worker: str,
    events: int,
    turns: Turns,
    node: RabbitMQNode,
) -> Mapping[str, Mapping[str, float]]:
    """Serve all views; each gets the load for a short turn, several times.

    So a change of the machine's speed hits all of them alike.

    :return: the medians of the turns, by view and unit.
    :raises Unavailable: hey is not installed.
    """
    with ExitStack() as stack:
        served = {
            view: stack.enter_context(_warm(view, worker, events, node, node.url))
            for view in views
        }
        measured = [
            {view: one.load(turns.seconds) for view, one in served.items()}
            for _ in range(turns.number)
        ]
    return {
        view: {
            unit: statistics.median(turn[view][unit] for turn in measured)
            for unit in UNITS
        }
        for view in views
    }


@contextmanager
def _warm(
    view: str, worker: str, events: int, node: RabbitMQNode, url: str, most: int = 1
) -> Iterator[_Served]:
    """Serve the view; at the end, check that each event arrived, *most* times."""
    _check_hey()
    queue = node.declare(f"benchmark.{view}".replace(" ", "-"))
    with tempfile.TemporaryDirectory() as folder:
        task = Task(view, url, queue, events, f"{folder}/spool")
        with _served(task, worker, Path(folder, "log")) as served:
            served.load(WARM_UP)
            yield served
            sent = 0 if view == NO_EVENTS else events * served.requests
            check_arrived(node, queue, sent, most=most * sent)
    node.delete(queue)


def _figures(load: Load, spent: float) -> dict[str, float]:
    percentiles = statistics.quantiles(load.times, n=100)
    return {
        RATE: len(load.times) / load.seconds,
        MEDIAN: 1e3 * percentiles[49],
        P99: 1e3 * percentiles[98],
        CPU: 1e6 * spent / len(load.times),
    }


@contextmanager
def _served(task: Task, worker: str, log: Path) -> Iterator[_Served]:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}/"
    with log.open("wb") as output:
        master = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "benchmarks.views:create_app()"),
                *("--bind", f"127.0.0.1:{port}", "--log-level", "error"),
                *WORKERS[worker],
            ],
            env=os.environ | task.as_environment(),
            cwd=_ROOT,
            stderr=output,
        )
    try:
        wait_until(lambda: _is_up(f"{address}up"), f"gunicorn with {task.view}")
        yield _Served(address, master.pid)
    except RuntimeError as error:
        raise RuntimeError(f"{error}\n{log.read_text()[-4000:]}") from error
    finally:
        master.terminate()
        master.wait(60)


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _load(address: str, seconds: float) -> Load:
    """Request it from all clients.

    :raises RuntimeError: a request failed.
    """
    options = ("-c", str(CLIENTS), "-z", f"{seconds}s", "-t", "30", "-o", "csv")
    output = subprocess.check_output(["hey", *options, address], text=True)
    responses = list(csv.DictReader(output.splitlines()))
    failed = [response for response in responses if response["status-code"] != "200"]
    if failed or not responses:
        raise RuntimeError(f"{len(failed)} of {len(responses)} requests failed")
    times = [float(response["response-time"]) for response in responses]
    starts = [float(response["offset"]) for response in responses]
    ends = map(sum, zip(starts, times, strict=True))
    return Load(times, max(ends) - min(starts))


def _cpu_of_workers(master: int) -> float:
    """User and system time of the workers so far, in seconds; needs Linux."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return sum(_cpu_of(int(pid)) for pid in children)


def _cpu_of(pid: int) -> float:
    # The second field, in brackets, may contain spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
