"""Rows about forks: before the workers start, and in the middle of their work."""

from __future__ import annotations

import itertools

from tests.faults.figures import Figures
from tests.faults.rig import EVENTS, Rig
from tests.faults.rows import row

#: Requests in each part of a run.
SOME = 40
#: Events that are published before the workers are forked.
EARLY = 100
#: Forks in each run.
FORKS = 20


@row(
    26,
    "events before the fork, `--preload`",
    holds="0 lost, 0 duplicated, whether confirmed before the workers start or after",
    short=2,
    long=20,
    confirms=EARLY + SOME * EVENTS,
    twice=False,
)
def before_the_fork(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _, confirmed in zip(range(runs), itertools.cycle((True, False)), strict=False):
        if not confirmed:
            rig.proxy.hold()
        with rig.trial(
            kind="gunicorn-gthread-preload",
            workers=4,
            asks={"BEFORE_FORK": EARLY},
            HEARTBEAT=15,
        ) as trial:
            trial.hit(trial.done == EARLY)
            rig.proxy.restore()
            trial.requests(SOME)
        found.add(trial.figures)
    return found


@row(
    27,
    "fork under load",
    holds="0 lost; no child hangs, no request fails",
    short=3,
    long=1000 // FORKS,
    confirms=2 * SOME * EVENTS,
    twice=False,
)
def under_load(rig: Rig, runs: int) -> Figures:
    with rig.trial(kind="gunicorn-gthread", HEARTBEAT=15) as trial:
        for _ in range(runs):
            with trial.under_load(2 * SOME, pause=0.02):
                forks = trial.host.post("/forks/0", children=FORKS, events=1)
                trial.expect("each child has published", len(forks) == FORKS)
            trial.hit(len(forks))
            trial.forked += forks
    return trial.figures
