"""Rows about the outbox: processes and databases that end at a bad moment."""

from __future__ import annotations

import itertools
import os
import signal
import time

from tests.faults.failpoints import IN_REQUESTS, POINTS
from tests.faults.figures import Figures
from tests.faults.rig import DATABASES, EVENTS, LEASE, Rig, Trial
from tests.faults.rows import IN_OUTBOX, row
from tests.helpers import freeze

#: The modes with a database that has a server.
_ON_SERVERS = tuple(mode for mode in IN_OUTBOX if DATABASES[mode] != "sqlite")
#: Seconds until a distant broker hears of anything, and as many until it is heard.
LATENCY = 0.15
#: Requests in each part of a run, and under a fault that lasts for some seconds.
SOME, MANY = 40, 160


@row(
    47,
    "killed between flush, commit and hand-over",
    holds="ghosts 0, zombies 0; second copies marked",
    short=len(POINTS),
    long=100,
    confirms=SOME * EVENTS,
    fails=True,
    modes=IN_OUTBOX,
)
def killed_on_the_way(rig: Rig, runs: int) -> Figures:
    points = IN_REQUESTS if rig.is_baseline else POINTS
    with rig.trial(workers=2) as trial:
        for _, point in zip(range(runs), itertools.cycle(points), strict=False):
            with trial.under_load(2 * SOME, pause=0.02):
                _kill_at(trial, point)
            trial.host.wait_until_complete()
    return trial.figures


def _kill_at(trial: Trial, point: str) -> None:
    """Have a worker kill itself as soon as it reaches this point."""
    workers = set(trial.host.worker_pids)
    trial.request(die=point)

    def is_killed() -> bool:
        return not workers <= set(trial.host.worker_pids)

    trial.wait_until(f"a worker is killed when {point}", is_killed)
    trial.hit()


@row(
    48,
    "database killed with `kill -9` and started again under load",
    holds="ghosts 0, zombies 0; the same workers go on by themselves",
    short=1,
    long=100,
    confirms=SOME * EVENTS,
    fails=True,
    modes=_ON_SERVERS,
)
def database_killed(rig: Rig, runs: int) -> Figures:
    with rig.trial(workers=2) as trial:
        workers = trial.host.worker_pids
        for _ in range(runs):
            with trial.under_load(MANY, pause=0.1):
                time.sleep(rig.random.uniform(0, 0.3))
                trial.database.server.kill()
                trial.hit()
                # Often short, and sometimes longer than a lease.
                time.sleep(rig.random.choice((0, LEASE)) * rig.random.uniform(0, 2))
                trial.database.server.start()
            answers = trial.requests(SOME)
            failed = sum(not answer.ok for answer in answers)
            trial.expect(f"requests succeed again, {failed} do not", not failed)
        same = workers == trial.host.worker_pids
        trial.expect("these are still the same workers", same)
    return trial.figures


@row(
    49,
    "sender frozen with `SIGSTOP` past its lease, then woken",
    holds="ghosts 0, zombies 0; second copies marked; lost leases counted; others' rows"
    " untouched",
    short=2,
    long=20,
    confirms=SOME * EVENTS,
    fails=True,
    # SQLite lets nobody write while a frozen process does.
    modes=_ON_SERVERS,
)
def frozen_past_its_lease(rig: Rig, runs: int) -> Figures:
    """It is a worker in the first half of the runs, and a relay in the second."""
    found = Figures()
    halves = ((runs + 1) // 2, 0), (runs // 2, 2)
    for number, relays in halves[:runs]:
        who = "external" if relays else "own"
        with rig.trial(
            workers=2, relays=relays, HEARTBEAT=15, OUTBOX_RELAY=who
        ) as trial:
            for _ in range(number):
                _freeze_under_load(trial)
        found.add(trial.figures)
    # Not each time: it may be frozen in a transaction, whose rows nobody can take over.
    if not rig.is_baseline and not (found.lost_leases and found.duplicated):
        found.broken.append("no lease was lost, or nothing arrived twice")
    return found


def _freeze_under_load(trial: Trial) -> None:
    """The broker is far away, so that some events are always in flight."""
    dice = trial.rig.random
    # All are connected.
    trial.requests(SOME)
    trial.settle()
    trial.proxy.latency = LATENCY
    with trial.under_load(MANY, pause=0.05):
        time.sleep(2 * LATENCY + dice.uniform(0, 0.3))
        sender = _sender(trial)
        freeze(sender)
        trial.hit()
        # The others go on.
        time.sleep(LEASE * dice.uniform(1.1, 1.6))
        os.kill(sender, signal.SIGCONT)
    trial.proxy.latency = 0.0
    trial.settle()


def _sender(trial: Trial) -> int:
    """The process that sends the most: an active relay, or a worker."""
    if trial.relays:
        return trial.rig.random.choice(_active_relays(trial))
    return max(trial.host.worker_pids, key=lambda pid: len(trial.tried_by(pid)))


def _active_relays(trial: Trial) -> list[int]:
    """The relay that leads; of the naive ones, each."""
    relays = [relay.pid for relay in trial.relays]
    if trial.rig.is_baseline:
        return relays
    trial.wait_until("a relay is active", lambda: trial.database.leader() in relays)
    return [pid for pid in relays if pid == trial.database.leader()]


@row(
    37,
    "several relays on one outbox, the active one killed",
    holds="0 lost; another one takes over after the lease; second copies marked",
    short=2,
    long=100,
    confirms=SOME * EVENTS,
    modes=IN_OUTBOX,
)
def relay_killed(rig: Rig, runs: int) -> Figures:
    with rig.trial(workers=2, relays=3, OUTBOX_RELAY="external") as trial:
        for _ in range(runs):
            with trial.under_load(4 * SOME, pause=0.05):
                time.sleep(rig.random.uniform(0, 0.3))
                pid = rig.random.choice(_active_relays(trial))
                (relay,) = [relay for relay in trial.relays if relay.pid == pid]
                relay.close()
                trial.hit()
                # As its service manager does.
                relay.launch()
            # Another one has taken over.
            trial.settle()
    return trial.figures
