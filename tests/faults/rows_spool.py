"""Rows about one folder of files on disk, and processes that end at a bad moment."""

from __future__ import annotations

from tests.faults.figures import Figures
from tests.faults.rig import EVENTS, Rig
from tests.faults.rows import row

#: Requests in each part of a run.
SOME = 60
#: The app notes what the library says is published.
NOTED = {"NOTE_CONFIRMED": 1}


@row(
    35,
    "many workers on one spool folder, some killed, all reloaded",
    holds="no corruption, no lock error; an orphan is adopted once; spool: 0 lost",
    short=1,
    long=20,
    confirms=SOME * EVENTS // 2,
    hits=4,
    fails=True,
)
def many_workers(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _ in range(runs):
        with rig.trial(workers=8, asks=NOTED, HEARTBEAT=15) as trial:
            rig.node.stop_app()
            for _ in range(3):
                with trial.under_load(SOME, pause=0.01):
                    pid = rig.random.choice(trial.host.worker_pids)
                    trial.host.kill_worker(pid)
                    trial.hit()
                trial.host.wait_until_complete()
                trial.may_lose_unconfirmed(pid)
            with trial.under_load(SOME, pause=0.01):
                trial.host.reload()
                trial.hit()
            rig.node.start_app()
            trial.requests(SOME)
        trial.expect("the disk makes no trouble", "The spool fails" not in trial.log)
        trial.expect("no file is set aside", "was set aside" not in trial.log)
        found.add(trial.figures)
    return found


@row(
    36,
    "killed between confirm and local delete",
    holds="what comes twice is marked; spool: 0 lost",
    short=2,
    long=20,
    confirms=SOME * EVENTS // 2,
    fails=True,
)
def confirmed_not_erased(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _ in range(runs):
        with rig.trial(asks=NOTED, HEARTBEAT=15) as trial:
            rig.node.stop_app()
            trial.requests(SOME)
            (pid,) = trial.host.worker_pids
            rig.node.start_app()
            # The first confirms are in, and their rows are erased within a second.
            trial.wait_until("confirms come", lambda: trial.stats("confirmed") > 0)
            trial.host.kill_worker(pid)
            trial.hit()
            trial.host.wait_until_complete()
            trial.may_lose_unconfirmed(pid)
            trial.requests(SOME)
        found.add(trial.figures)
    return found
