"""Rows about the end of a worker: by a signal, by force, or during a publish."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from tests.faults.endings import (
    AT_SIGTERM,
    FIRST_OTHERS,
    FIRST_OVER_TIME,
    OTHERS,
    OVER_TIME,
    Ending,
    Outage,
    all_counted,
    pending,
)
from tests.faults.figures import Figures
from tests.faults.proxy import Side
from tests.faults.rig import DATABASES, EVENTS, NOTED, Rig, Trial
from tests.faults.rows import ANY, row

#: Requests in each part of a run, and under a random fault.
SOME, MANY = 40, 120
#: Seconds that these need themselves, since they check for signals once a second.
SLOW_TO_HEAR = {"gevent": 1.0, "uwsgi": 1.0}


def _kinds(endings: Iterable[Ending]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ending.kind for ending in endings))


# In the middle of a publish.


@row(
    24,
    "publish interrupted at any point",
    holds="no event gets another's confirm; acknowledged events arrive",
    short=2,
    long=100,
    confirms=SOME * EVENTS,
    fails=True,
    discards=True,
    kinds=("gunicorn-gevent",),
)
def interrupted(rig: Rig, runs: int) -> Figures:
    found = Figures()
    ways = itertools.cycle((_by_sigquit, _by_gevent_timeout))
    for _, strike in zip(range(runs), ways, strict=False):
        found.add(strike(rig))
    return found


def _by_sigquit(rig: Rig) -> Figures:
    """SystemExit is raised in a sync worker, at any point."""
    with rig.trial(kind="gunicorn-sync", workers=2, asks=NOTED) as trial:
        with trial.under_load(3 * MANY, pause=0.02):
            for _ in range(4):
                trial.host.wait_until_complete()
                time.sleep(rig.random.uniform(0, 0.2))
                pid = rig.random.choice(trial.host.worker_pids)
                trial.host.kill_worker(pid, signal.SIGQUIT)
                trial.hit()
        trial.host.wait_until_complete()
    return trial.figures


def _by_gevent_timeout(rig: Rig) -> Figures:
    """A greenlet is interrupted while it waits for confirms, or just before."""
    with rig.trial(kind="gunicorn-gevent", asks=NOTED) as trial:
        trial.requests(8)
        rig.proxy.latency = 0.01
        for turn in range(SOME):
            seconds = rig.random.uniform(0, 0.03)
            path = f"/interrupted/0?events={EVENTS}&seconds={seconds:.4f}"
            if turn % 4:
                trial.load.run([path] * 2)
                continue
            trial.wait_for_broker("ready")
            trial.load.run([path])
            # Everything from here on is lost, so one event's confirm arrives, but not
            # the next one's.
            rig.proxy.silence(Side.CLIENT)
            trial.load.run([path] * 2)
            rig.proxy.silence()
            rig.proxy.cut()
        trial.hit(SOME)
        rig.proxy.latency = 0.0
    trial.expect("no request fails", not trial.figures.failed)
    return trial.figures


# SIGTERM.


@row(
    30,
    "SIGTERM with a backlog, broker up and down",
    holds="exit within `SHUTDOWN_TIMEOUT` + 1 s; lost events counted in the log",
    short=3,
    long=50,
    confirms=0,
    refuses=True,
    kinds=_kinds(AT_SIGTERM),
)
def sigterm(rig: Rig, runs: int) -> Figures:
    found = Figures()
    ways: Sequence[Callable[[Rig, Ending], Trial]]
    ways = (_ended_silent, _ended_back, _ended_down)
    # Each kind in each of the ways: their numbers have only 3 as a common divisor.
    turns = zip(range(runs), itertools.cycle(AT_SIGTERM), strict=False)
    for run, ending in turns:
        trial = ways[(run + run // len(AT_SIGTERM)) % 3](rig, ending)
        found.add(trial.figures)
    return found


def _ended_silent(rig: Rig, ending: Ending) -> Trial:
    with pending(rig, ending) as trial:
        end_in_time(trial)
        may_be_uncounted(trial, ending)
    trial.expect("all are counted", all_counted(trial) or not ending.counted)
    return trial


def _ended_down(rig: Rig, ending: Ending) -> Trial:
    with pending(rig, ending, Outage.DOWN) as trial:
        end_in_time(trial)
        may_be_uncounted(trial, ending)
    trial.expect("all are counted", all_counted(trial) or not ending.counted)
    return trial


def _ended_back(rig: Rig, ending: Ending) -> Trial:
    """The broker returns at the last moment, so counted events may still arrive."""
    with pending(rig, ending) as trial:
        rig.proxy.restore()
        end_in_time(trial)
        may_be_uncounted(trial, ending)
    return trial


def may_be_uncounted(trial: Trial, ending: Ending) -> None:
    """Without exit handlers, events in memory are lost as by a kill."""
    if not ending.counted:
        trial.may_lose_unconfirmed()


def end_in_time(trial: Trial) -> None:
    trial.hit()
    trial.expect_bounded_exit(itself=SLOW_TO_HEAR.get(trial.host.kind.package, 0.0))


# Killed.


@row(
    31,
    "`kill -9` of a worker at random",
    holds="memory: 0 lost that were reported as published; spool, outbox: 0 lost",
    short=3,
    long=100,
    confirms=SOME * EVENTS // 4,
    fails=True,
    modes=ANY,
)
def killed_at_random(rig: Rig, runs: int) -> Figures:
    found = Figures()
    black_hole = partial(rig.proxy.silence, *Side)
    ways: list[Callable[[], object]] = [
        *(_nothing, rig.node.stop_app, black_hole, rig.node.freeze)
    ]
    turns = itertools.islice(itertools.cycle(ways), runs)
    # With an outbox, nothing may be lost with any process, so one app will do.
    for disruptions in [turns] if rig.mode in DATABASES else ([way] for way in turns):
        with rig.trial(workers=2, asks=NOTED, HEARTBEAT=15) as trial:
            trial.requests(SOME)
            for disrupt in disruptions:
                pid = _kill_one_while(trial, disrupt)
            trial.may_lose_unconfirmed(pid)
        found.add(trial.figures)
    return found


def _kill_one_while(trial: Trial, disrupt: Callable[[], object]) -> int:
    """Kill one worker of several, while the broker is disrupted; return which."""
    dice = trial.rig.random
    with trial.under_load(MANY, pause=0.02):
        disrupt()
        time.sleep(dice.uniform(0, 0.3))
        pid = dice.choice(trial.host.worker_pids)
        trial.host.kill_worker(pid)
        trial.hit()
        trial.host.wait_until_complete()
    trial.node.thaw()
    trial.node.start_app()
    trial.proxy.restore()
    # A connection that has lost bytes stays broken.
    trial.proxy.cut()
    return pid


def _nothing() -> None:
    """The broker stays reachable."""


@row(
    32,
    "worker over its timeout (SIGABRT, SIGKILL)",
    holds="as row 31; all counted with a shorter `SHUTDOWN_TIMEOUT`; nothing hangs",
    short=FIRST_OVER_TIME,
    long=10 * len(OVER_TIME),
    confirms=0,
    refuses=True,
    fails=True,
    kinds=_kinds(OVER_TIME),
)
def over_time(rig: Rig, runs: int) -> Figures:
    return _ended_each(rig, OVER_TIME, runs, longest=8.0)


@row(
    33,
    "recycling, `os._exit`, end of a script; Celery, waitress",
    holds="nothing hangs; uncounted losses are documented",
    short=FIRST_OTHERS,
    long=5 * len(OTHERS),
    confirms=0,
    refuses=True,
    fails=True,
    kinds=_kinds(OTHERS),
)
def other_ends(rig: Rig, runs: int) -> Figures:
    # Celery itself takes several seconds to end.
    return _ended_each(rig, OTHERS, runs, longest=15.0)


def _ended_each(
    rig: Rig, endings: Sequence[Ending], runs: int, longest: float
) -> Figures:
    found = Figures()
    for _, ending in zip(range(runs), itertools.cycle(endings), strict=False):
        with pending(rig, ending) as trial:
            seconds = ending.end(trial)
            trial.hit()
            trial.expect(
                f"it ends in time, not after {seconds:.1f} s", seconds < longest
            )
            may_be_uncounted(trial, ending)
        if ending.counted:
            trial.expect(f"{ending}: the log counts all events", all_counted(trial))
        found.add(trial.figures)
    return found
