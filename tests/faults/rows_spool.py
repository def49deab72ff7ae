"""Rows about one folder of files on disk, and processes that end at a bad moment."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

from flask_eventcollector.stores.spool.folder import creator_of
from tests.faults.damage import DAMAGES
from tests.faults.disk import failing_writes, no_disk, small_disk
from tests.faults.figures import SLOWEST, Figures
from tests.faults.rig import EVENTS, NOTED, Rig, Trial
from tests.faults.rows import row

#: Requests in each part of a run.
SOME = 60
#: Bytes of an event beside a disk that fails.
PADDING = 1_000


@row(
    35,
    "many workers share a spool folder, some killed, all reloaded",
    holds="no corruption, no lock error; each orphan adopted once; spool: 0 lost",
    short=1,
    long=20,
    confirms=SOME * EVENTS // 2,
    hits=4,
    # The memory of a worker that is reloaded ends with it, counted.
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
        trial.expect("the disk makes no trouble", "Spool problem" not in trial.log)
        quarantined = "Quarantined spool file" in trial.log
        trial.expect("no file is quarantined", not quarantined)
        dropped = trial.figures.dropped if rig.mode == "spool" else 0
        trial.expect(f"none of the spool's is dropped, not {dropped}", not dropped)
        found.add(trial.figures)
    return found


@row(
    36,
    "killed between confirm and local delete",
    holds="duplicates marked; spool: 0 lost",
    short=2,
    long=20,
    confirms=SOME * EVENTS // 2,
    fails=True,
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
                # Confirms are in, and their rows are erased within a second.
                trial.wait_until("confirms come", lambda: trial.stats("confirmed") > 0)
            trial.host.kill_worker(pid)
            # What it had still to send is lost with it.
            rig.proxy.cut()
            rig.proxy.restore()
            trial.hit()
            trial.host.wait_until_complete()
            trial.may_lose_unconfirmed(pid)
            trial.requests(SOME)
        found.add(trial.figures)
    if rig.mode == "spool" and not found.duplicated:
        found.broken.append("nothing came twice, so nothing was left to be erased")
    return found


def _wait_until_half_is_sent(trial: Trial) -> None:
    """All is in flight, and the network is so slow that the rest is not there yet."""
    trial.proxy.bandwidth, trial.proxy.slice = 30_000, 1_000
    trial.node.start_app()
    trial.wait_until("some are confirmed and erased", lambda: _erased(trial) > 0)
    trial.expect("not all is confirmed", trial.stats("in_flight") > 0)


def _erased(trial: Trial) -> int:
    """How many rows are gone of those whose events are confirmed."""
    books = trial.host.stats()
    return int(books["confirmed"] - books["unerased"])


# A disk that fails, and files that are not what was written.


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
    """The disk is full from the start, breaks, and is full while the broker returns."""
    with small_disk() as disk:
        with rig.trial(SPOOL_DIR=str(disk.path), HEARTBEAT=15) as trial:
            each = SOME * EVENTS
            (pid,) = trial.host.worker_pids
            rig.node.stop_app()
            with disk.full():
                _expect_trouble(trial, "full")
            _expect_written(trial, each)
            with failing_writes(pid):
                _expect_trouble(trial, "I/O error")
            _expect_written(trial, 2 * each)
            _kill(trial, pid)
            # The next one has nothing but the disk.
            adopted = partial(trial.stats, "adopted")
            trial.wait_until("all is adopted", lambda: adopted() == 2 * each)
            confirmed = partial(trial.stats, "confirmed")
            with disk.full():
                _expect_trouble(trial, "full")
                rig.node.start_app()
                # What is in memory only is delivered, too, and nothing can be erased.
                trial.wait_until("all is confirmed", lambda: confirmed() == 3 * each)
            trial.wait_until("all is erased", lambda: not trial.stats("unerased"))
        _expect_no_file_left(trial)
    return trial.figures


def _expect_trouble(trial: Trial, words: str) -> None:
    answers = trial.requests(SOME, padding=PADDING)
    trial.hit()
    slowest = max(answer.seconds for answer in answers)
    trial.expect(f"nobody waits, not {slowest:.3f} s", slowest < SLOWEST)
    trial.wait_until("it is counted", lambda: trial.stats("unspooled") > 0)
    trial.wait_until("it is told", lambda: words in trial.stats("spool_error"))
    trial.wait_until("it is logged", lambda: "Spool problem" in trial.host.log)


def _expect_written(trial: Trial, number: int) -> None:
    """The disk is well again, so nobody has to ask."""

    def well() -> bool:
        return not (trial.stats("unspooled") or trial.stats("spool_error"))

    trial.wait_until("all is written", well)
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
    preload = "gunicorn-gthread-preload"  # So that many start quickly.
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
        # One whose rows are damaged, but not the file, when the others have arrived.
        aside = partial(trial.stats, "quarantined")
        trial.wait_until("each is quarantined", lambda: aside() == number)
        kept = len(list(trial.spool.glob("*.spool.quarantined")))
        trial.expect(f"{number} are kept for people, not {kept}", kept == number)
        trial.wait_until("each is told", lambda: len(trial.told_aside) == number)
    logged = trial.log.count("Quarantined spool file")
    trial.expect(f"{number} are logged, not {logged}", logged == number)
    _expect_no_file_left(trial)
    return trial.figures


def _a_file_each(trial: Trial) -> list[Path]:
    """Send requests until each worker has written into a file of its own."""

    def files() -> list[Path]:
        return sorted(trial.spool.glob("*.spool"))

    def all_have() -> bool:
        trial.requests(trial.host.workers, padding=PADDING)
        return len(files()) == trial.host.workers

    trial.wait_until("each worker has a file", all_have)
    return files()
