"""How a host ends, and what happens to events that are waiting for the broker.

    python -m tests.faults.endings                 all rows
    python -m tests.faults.endings gunicorn        rows whose names contain this word
    python -m tests.faults.endings --mode spool    with the spool

This prints what each ending lost and counted, for the table in `docs/deployment.md`. An
event is lost if it neither arrived nor is on disk. Meanwhile the broker is unreachable:
it is `down` and refuses connections, or is `silent`, so that the shutdown waits for it.
"""

from __future__ import annotations

import argparse
import enum
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.faults.hosts import KINDS, is_running
from tests.faults.proxy import Proxy
from tests.faults.rig import EVENTS, MODES, Rig, Trial
from tests.rabbitmq import RabbitMQNode

#: Requests, tasks or units of work whose events wait.
ORDERS = 20
PENDING = ORDERS * EVENTS
#: The timeout of a worker, in seconds, for endings that exceed it.
TIMEOUT = 1


@dataclass(frozen=True, kw_only=True)
class Ending:
    """One way for one kind of host to end."""

    kind: str
    how: str
    #: Ends it; returns the seconds until it, or its worker, has ended.
    end: Callable[[Trial], float]
    #: Whether the log counts all events that are lost.
    counted: bool = True
    options: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}: {self.how}"


class Outage(enum.Enum):
    """The ways in which the broker is unreachable."""

    DOWN = "down"
    SILENT = "silent"

    def begin(self, rig: Rig) -> None:
        """Make the broker unreachable."""
        if self is Outage.DOWN:
            rig.node.stop_app()
        else:
            rig.proxy.hold()

    def end(self, rig: Rig) -> None:
        """Make the broker reachable."""
        if self is Outage.DOWN:
            rig.node.start_app()
        else:
            rig.proxy.restore()


@contextmanager
def pending(
    rig: Rig, ending: Ending, outage: Outage = Outage.SILENT
) -> Iterator[Trial]:
    """Run a host with retained events; the broker is reachable again afterwards."""
    outage.begin(rig)
    options = ending.options
    if ending.kind == "script":
        options = (str(ORDERS), str(EVENTS), *options)
    with rig.trial(
        broker_is_up=False,
        kind=ending.kind,
        options=options,
        **ending.settings,
    ) as trial:
        give_work(trial)
        yield trial
        outage.end(rig)
        trial.declare(trial.queue)
    trial.figures.broken = [f"{ending}: {it}" for it in trial.figures.broken]


def give_work(trial: Trial) -> None:
    """Have events enqueued; return when all are retained."""
    if trial.host.kind.serves:
        trial.requests(ORDERS)
        return
    if trial.host.kind.name == "celery":
        from tests.faults.celery_app import new_celery

        with new_celery(trial.host.folder / "tasks") as celery:
            for order in range(1, ORDERS + 1):
                celery.send_task("place", (order, EVENTS))
    trial.wait_until("all is done", lambda: trial.done == PENDING)


def all_counted(trial: Trial) -> bool:
    """Whether the log counts all missing events."""
    return trial.logged_drops == len(trial.missing)


# The ways to end.


def by_signal(number: signal.Signals, trial: Trial) -> float:
    """End the process that was started."""
    return trial.end(number)


by_sigterm = partial(by_signal, signal.SIGTERM)


def by_itself(trial: Trial) -> float:
    """Wait until it ends without a signal."""
    return trial.await_end()


def by_killed_worker(trial: Trial) -> float:
    """Kill the only worker."""
    return _without_worker(
        trial, lambda pid: trial.host.kill_worker(pid, signal.SIGKILL)
    )


def by_request(path: str, trial: Trial) -> float:
    """End the only worker by a request."""
    return _without_worker(trial, lambda pid: trial.load.run([path]))


by_hanging = partial(by_request, "/slow?seconds=8")
by_hanging_deaf = partial(by_request, "/slow?seconds=8&deaf=1")
by_os_exit = partial(by_request, "/exit")


def by_recycling(trial: Trial) -> float:
    """Send requests until the only worker has reached its limit."""

    def send(pid: int) -> None:
        while is_running(pid) and trial.load.run(["/slow?seconds=0"])[0].ok:
            pass

    return _without_worker(trial, send)


def _without_worker(trial: Trial, end: Callable[[int], object]) -> float:
    [pid] = trial.host.worker_pids
    began = time.monotonic()
    end(pid)
    trial.wait_until("the worker is gone", lambda: not is_running(pid))
    seconds = time.monotonic() - began
    trial.host.wait_until_complete()
    return seconds


GUNICORN = [
    f"gunicorn-{worker}{preload}"
    for preload in ("", "-preload")
    for worker in ("sync", "gthread", "gevent")
]
UWSGI = ["uwsgi", "uwsgi-threads", "uwsgi-lazy-apps"]
_TIMEOUT = ("--timeout", str(TIMEOUT))
_RECYCLED = ("--max-requests", str(2 * ORDERS))
_FEW_TASKS = ("--max-tasks-per-child", str(ORDERS // 2))

#: Ended by SIGTERM. uWSGI runs no exit handlers in a worker that is busy.
AT_SIGTERM = [
    Ending(kind=kind, how="SIGTERM", end=by_sigterm, counted=kind in GUNICORN)
    for kind in (*GUNICORN, *UWSGI)
]
#: Over a timeout.
OVER_TIME = [
    Ending(
        kind="gunicorn-sync",
        how="over `--timeout`, `SHUTDOWN_TIMEOUT` 0.5",
        end=by_hanging,
        options=_TIMEOUT,
        settings={"SHUTDOWN_TIMEOUT": 0.5},
    ),
    Ending(
        kind="gunicorn-sync",
        how="over `--timeout`, SIGABRT ignored",
        end=by_hanging_deaf,
        options=_TIMEOUT,
        counted=False,
    ),
    # Only a report runs these two.
    Ending(
        kind="gunicorn-sync",
        how="over `--timeout`",
        end=by_hanging,
        options=_TIMEOUT,
        counted=False,
    ),
    Ending(
        kind="uwsgi",
        how="over `--harakiri`",
        end=by_hanging,
        options=("--harakiri", str(TIMEOUT)),
        counted=False,
    ),
]
#: Recycled, or ended in another way.
OTHERS = [
    Ending(
        kind="gunicorn-gthread",
        how="over `--max-requests`",
        end=by_recycling,
        options=_RECYCLED,
    ),
    Ending(kind="gunicorn-gthread", how="`os._exit`", end=by_os_exit, counted=False),
    Ending(kind="waitress", how="SIGTERM", end=by_sigterm, counted=False),
    Ending(kind="script", how="normal exit", end=by_itself, options=("end",)),
    Ending(
        kind="script", how="`os._exit`", end=by_itself, options=("exit",), counted=False
    ),
    Ending(
        kind="celery",
        how="`--max-tasks-per-child`",
        end=by_sigterm,
        options=_FEW_TASKS,
    ),
    # Only a report runs these.
    Ending(kind="waitress", how="SIGINT", end=partial(by_signal, signal.SIGINT)),
    Ending(
        kind="script",
        how="SIGTERM, handled",
        end=by_sigterm,
        options=("handle",),
    ),
    Ending(
        kind="script", how="SIGTERM", end=by_sigterm, options=("wait",), counted=False
    ),
    Ending(kind="celery", how="SIGTERM", end=by_sigterm),
    Ending(
        kind="uwsgi",
        how="over `--max-requests`",
        end=by_recycling,
        options=_RECYCLED,
        counted=False,
    ),
    Ending(kind="uwsgi-gevent", how="SIGTERM", end=by_sigterm, counted=False),
]
#: How many of each the tests run.
FIRST_OVER_TIME, FIRST_OTHERS = 2, 6
#: Memory loses all events silently.
KILLED = [
    Ending(kind=kind, how="`kill -9` of a worker", end=by_killed_worker, counted=False)
    for kind in ("gunicorn-gthread", "uwsgi")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, for endings whose names contain one of the words."""
    options = parser().parse_args(arguments)
    words = options.words
    chosen = [
        ending
        for ending in (*AT_SIGTERM, *OVER_TIME, *OTHERS, *KILLED)
        if not words or any(word in str(ending) for word in words)
    ]
    say("| host | ended by | broker | seconds | pending | on disk | lost | counted |")
    say("|---|---|---|---:|---:|---:|---:|---:|")
    node = RabbitMQNode()
    try:
        node.start()
        with Proxy(node.port) as proxy:
            for ending, outage in itertools.product(chosen, Outage):
                say(measured(Rig(node, proxy, mode=options.mode), ending, outage))
    finally:
        node.close()


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m tests.faults.endings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "words", nargs="*", metavar="WORD", help="in the name of an ending"
    )
    options.add_argument("--mode", choices=MODES, default="memory")
    return options


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def measured(rig: Rig, ending: Ending, outage: Outage) -> str:
    """One row of the table."""
    if missing := KINDS[ending.kind].missing:
        return f"| {ending.kind} | {ending.how} | not run, missing: {missing} |"
    with pending(rig, ending, outage) as trial:
        seconds = ending.end(trial)
    lost, counted = len(trial.missing), trial.logged_drops
    counts = f"{PENDING} | {trial.figures.kept} | {lost} | {counted}"
    figures = f"{outage.value} | {seconds:.1f} | {counts}"
    return f"| {ending.kind} | {ending.how} | {figures} |"


if __name__ == "__main__":
    main()
