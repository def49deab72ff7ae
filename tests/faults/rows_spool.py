"""Rows about the spool's folder, and about processes that end at a bad moment."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

from flask_eventcollector.stores.spool.folder import creator_of
from tests.faults.damage import DAMAGES
from tests.faults.disk import failing_writes, no_disk, small_disk
from tests.faults.figures import Figures
from tests.faults.rig import EVENTS, NOTED, Rig, Trial
from tests.faults.rows import ANY, row

#: Requests in each part of a run.
SOME = 60
#: Bytes of padding per event, with a failing disk.
PADDING = 1_000


@row(
    35,
    "many workers share a spool folder, some killed, all reloaded",
    holds="no corruption, no lock error; each orphan adopted once; spool: 0 lost",
    short=1,
    long=20,
    confirms=SOME * EVENTS // 2,
    hits=4,
    # A reloaded worker drops the events in its memory, and counts them.
    refuses=True,
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
        trial.expect(
            "there is no problem with the disk", "Spool problem" not in trial.log
        )
        quarantined = "Quarantined spool file" in trial.log
        trial.expect("no file is quarantined", not quarantined)
        dropped = trial.figures.dropped if rig.mode == "spool" else 0
        trial.expect(f"the spool drops no event, not {dropped}", not dropped)
        found.add(trial.figures)
    return found


@row(
    36,
    "killed between confirm and local delete",
    holds="duplicates marked; spool, outbox: 0 lost",
    short=2,
    long=20,
    confirms=SOME * EVENTS // 2,
    fails=True,
    modes=ANY,
)
def confirmed_not_erased(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for run in range(runs):
        with rig.trial(asks=NOTED, HEARTBEAT=15) as trial:
            rig.node.stop_app()
            trial.requests(SOME)
            (pid,) = trial.host.worker_pids
            if run % 2:
                _wait_until_half_is_sent(trial)
            else:
                rig.node.start_app()
                # Confirms have arrived; their rows are erased within a second.
                trial.wait_until(
                    "confirms arrive", lambda: trial.stats("confirmed") > 0
                )
            trial.host.kill_worker(pid)
            # Anything that it had not sent yet is lost with it.
            rig.proxy.cut()
            rig.proxy.restore()
            trial.hit()
            trial.host.wait_until_complete()
            trial.may_lose_unconfirmed(pid)
            trial.requests(SOME)
        found.add(trial.figures)
    if rig.mode == "spool" and not found.duplicated:
        found.broken.append("nothing arrived twice, so no row was left to erase")
    return found


def _wait_until_half_is_sent(trial: Trial) -> None:
    """All events are in flight, on a network so slow that only some have arrived."""
    trial.proxy.bandwidth, trial.proxy.slice = 30_000, 1_000
    trial.node.start_app()
    trial.wait_until("some are confirmed and erased", lambda: _erased(trial) > 0)
    trial.expect("some are not confirmed", trial.stats("in_flight") > 0)


def _erased(trial: Trial) -> int:
    """How many rows of confirmed events were erased."""
    books = trial.host.stats()
    return int(books["confirmed"] - books["unerased"])


# Failing disks, and damaged files.


@row(
    34,
    "spool on a full disk, write error, damaged file, wrong owner",
    holds="requests stay fast; unwritten events counted, and written once that works;"
    " damaged files quarantined and counted; 0 lost except damaged events",
    short=2,
    long=40,
    confirms=SOME * EVENTS,
    modes=("spool",),
    denied=no_disk,
)
def bad_disk(rig: Rig, runs: int) -> Figures:
    """Many more files are damaged in tests/spool/test_damage.py."""
    found = Figures()
    ways = itertools.cycle((_failing_disk, _damaged_files))
    for _, strike in zip(range(runs), ways, strict=False):
        found.add(strike(rig))
    return found


def _failing_disk(rig: Rig) -> Figures:
    """The disk is full at first, then fails, and is full when the broker returns."""
    with small_disk() as disk:
        with rig.trial(SPOOL_DIR=str(disk.path), HEARTBEAT=15) as trial:
            each = SOME * EVENTS
            (pid,) = trial.host.worker_pids
            rig.node.stop_app()
            with disk.full():
                _expect_problem(trial, "full")
            _expect_written(trial, each)
            with failing_writes(pid):
                _expect_problem(trial, "I/O error")
            _expect_written(trial, 2 * each)
            _kill(trial, pid)
            # The next worker has only the events on disk.
            adopted = partial(trial.stats, "adopted")
            trial.wait_until("all are adopted", lambda: adopted() == 2 * each)
            confirmed = partial(trial.stats, "confirmed")
            with disk.full():
                _expect_problem(trial, "full")
                rig.node.start_app()
                # Events that are only in memory are delivered, too. No row can be
                # erased.
                trial.wait_until("all are confirmed", lambda: confirmed() == 3 * each)
            trial.wait_until("all are erased", lambda: not trial.stats("unerased"))
        _expect_no_file_left(trial)
    return trial.figures


def _expect_problem(trial: Trial, words: str) -> None:
    answers = trial.requests(SOME, padding=PADDING)
    trial.hit()
    slowest = max(answer.seconds for answer in answers)
    trial.expect(f"no request waits, not {slowest:.3f} s", slowest < trial.rig.slowest)
    trial.wait_until("it is counted", lambda: trial.stats("unspooled") > 0)
    trial.wait_until("it is reported", lambda: words in trial.stats("spool_error"))
    trial.wait_until("it is logged", lambda: "Spool problem" in trial.host.log)


def _expect_written(trial: Trial, number: int) -> None:
    """The disk works again, so the events are written without a request."""

    def recovered() -> bool:
        return not (trial.stats("unspooled") or trial.stats("spool_error"))

    trial.wait_until("all are written", recovered)
    spooled = trial.stats("spooled")
    trial.expect(f"{number} are on disk, not {spooled}", spooled == number)


def _kill(trial: Trial, pid: int) -> None:
    trial.host.kill_worker(pid)
    trial.hit()
    trial.host.wait_until_complete()


def _expect_no_file_left(trial: Trial) -> None:
    left = [path.name for path in trial.spool.glob("*.spool")]
    trial.expect(f"all arrived, so no file is left, not {left}", not left)


def _damaged_files(rig: Rig) -> Figures:
    """All workers are killed, and all of their files but one are damaged."""
    number = len(DAMAGES)
    preload = "gunicorn-gthread-preload"  # This starts many workers quickly.
    with rig.trial(kind=preload, workers=number + 1, HEARTBEAT=15) as trial:
        rig.node.stop_app()
        files = _a_file_each(trial)
        trial.host.close()
        for path, damage in zip(files[1:], DAMAGES, strict=True):
            trial.may_lose(damage(path, trial.tried_by(creator_of(path))))
            trial.hit()
        trial.host.workers = 1
        trial.host.start()
        trial.requests(SOME)
        rig.node.start_app()
        # A file with damaged rows only is quarantined after its other events have
        # arrived.
        quarantined = partial(trial.stats, "quarantined")
        trial.wait_until("each is quarantined", lambda: quarantined() == number)
        kept = len(list(trial.spool.glob("*.spool.quarantined")))
        trial.expect(
            f"{number} are retained for inspection, not {kept}", kept == number
        )
        trial.wait_until(
            "each is signalled", lambda: len(trial.reported_quarantined) == number
        )
    logged = trial.log.count("Quarantined spool file")
    trial.expect(f"{number} are logged, not {logged}", logged == number)
    _expect_no_file_left(trial)
    return trial.figures


def _a_file_each(trial: Trial) -> list[Path]:
    """Send requests until each worker has written to its own file."""

    def files() -> list[Path]:
        return sorted(trial.spool.glob("*.spool"))

    def all_have() -> bool:
        trial.requests(trial.host.workers, padding=PADDING)
        return len(files()) == trial.host.workers

    trial.wait_until("each worker has a file", all_have)
    return files()
