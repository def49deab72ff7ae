"""Random faults, repeatable by a seed, on several workers under load."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from flask_eventcollector.verifying import network
from tests.faults.figures import Figures
from tests.faults.rig import EVENTS, NOTED, Rig, Trial
from tests.faults.rows import ANY, Row
from tests.faults.rows_broker import disk_alarm

#: A fault during a block.
Fault = Callable[[Trial], AbstractContextManager[None]]

#: The approximate duration of a stroke in seconds, with its load.
STROKE = 5.0
#: Requests during a stroke.
REQUESTS = 120
WORKERS = 3
#: The share of strokes that also affect a worker.
SHARE_OF_WORKERS = 0.5


@dataclass(frozen=True)
class Stroke:
    """One fault for some seconds, possibly with a fault of a worker."""

    fault: str
    seconds: float
    worker: str | None = None

    def __str__(self) -> str:
        beside = f" and {self.worker}" if self.worker else ""
        return f"{self.fault} for {self.seconds:.1f} s{beside}"


def plan(seed: int, strokes: int) -> list[Stroke]:
    """The strokes of a seed: always the same."""
    dice = random.Random(seed)
    return [_draw(dice) for _ in range(strokes)]


def _draw(dice: random.Random) -> Stroke:
    fault = dice.choice(sorted(FAULTS))
    seconds = round(dice.uniform(0.2, 2.5), 1)
    hits_worker = dice.random() < SHARE_OF_WORKERS
    worker = dice.choice(sorted(WORKER_FAULTS)) if hits_worker else None
    return Stroke(fault, seconds, worker)


def strokes_in(minutes: float) -> int:
    """How many strokes fit into *minutes*; at least one."""
    return max(1, round(60 * minutes / STROKE))


def soak(seed: int) -> Row:
    """A row with the faults of a seed."""

    def act(rig: Rig, runs: int) -> Figures:
        with rig.trial(workers=WORKERS, asks=NOTED) as trial:
            for stroke in plan(seed, runs):
                strike(trial, stroke)
            network.heal(trial.proxy)
            trial.settle()
            # All running workers have delivered everything. So events that are not
            # confirmed now were in the memory of a killed process.
            trial.may_lose_unconfirmed()
        least = runs * REQUESTS * EVENTS // 2
        known = trial.figures.acknowledged
        trial.expect(f"{least} are acknowledged, not {known}", known >= least)
        return trial.figures

    return Row(
        number=0,
        fault=f"soak with seed {seed}",
        holds="0 lost that were reported as published, or not in a killed process",
        act=act,
        short=2,
        long=strokes_in(60),
        # Killed workers leave no counts, so acknowledged events are counted instead.
        confirms=0,
        refuses=True,
        fails=True,
        discards=True,
        modes=ANY,
    )


def strike(trial: Trial, stroke: Stroke) -> None:
    """Inject one stroke under load, and wait until it is over."""
    with trial.under_load(REQUESTS, pause=0.1), FAULTS[stroke.fault](trial):
        trial.hit()
        time.sleep(stroke.seconds / 2)
        if stroke.worker is not None:
            WORKER_FAULTS[stroke.worker](trial)
        time.sleep(stroke.seconds / 2)
    trial.host.wait_until_complete()


# Faults of the broker or the network, during a block.


@contextmanager
def _stopped(trial: Trial) -> Iterator[None]:
    trial.node.stop_app()
    yield
    trial.node.start_app()


@contextmanager
def _killed(trial: Trial) -> Iterator[None]:
    trial.node.kill()
    yield
    trial.node.start()


@contextmanager
def _frozen(trial: Trial) -> Iterator[None]:
    trial.node.freeze()
    yield
    trial.node.thaw()


@contextmanager
def _short_of_memory(trial: Trial) -> Iterator[None]:
    trial.node.memory_alarm(True)
    yield
    trial.node.memory_alarm(False)


@contextmanager
def _short_of_disk(trial: Trial) -> Iterator[None]:
    disk_alarm(trial.rig, True)
    yield
    disk_alarm(trial.rig, False)


@contextmanager
def _closed(trial: Trial) -> Iterator[None]:
    trial.node.close_all_connections()
    yield


def _of_network(fault: network.Fault) -> Fault:
    return lambda trial: fault(trial.proxy)


#: By name.
FAULTS: dict[str, Fault] = {
    **{name: _of_network(fault) for name, fault in network.FAULTS.items()},
    "all connections closed by the broker": _closed,
    "broker frozen": _frozen,
    "broker killed": _killed,
    "broker stopped": _stopped,
    "disk alarm": _short_of_disk,
    "memory alarm": _short_of_memory,
}


# Faults of a worker.


def _kill_one(trial: Trial) -> None:
    trial.host.kill_worker(_oldest(trial), signal.SIGKILL)


def _end_one(trial: Trial) -> None:
    trial.host.kill_worker(_oldest(trial), signal.SIGTERM)


def _reload(trial: Trial) -> None:
    before = set(trial.host.worker_pids)
    trial.host.send(signal.SIGHUP)
    trial.wait_until(
        "all workers are new ones", lambda: not before & set(trial.host.worker_pids)
    )


def _oldest(trial: Trial) -> int:
    trial.host.wait_until_complete()
    return min(trial.host.worker_pids)


#: By name.
WORKER_FAULTS: dict[str, Callable[[Trial], None]] = {
    "a worker killed": _kill_one,
    "a worker stopped": _end_one,
    "all workers reloaded": _reload,
}
