"""Rows about more events than can be retained."""

from __future__ import annotations

import itertools

from tests.faults.figures import Figures
from tests.faults.rig import Rig, Trial
from tests.faults.rows import row

#: The limit of the process, in events; ten times as many are enqueued.
LIMIT = 2_000
TIMES = 10
#: Events of each request, and bytes of each event.
EACH = 50
SIZE = 1_000
#: Bytes by which the memory may grow once the limit is reached.
FLAT = 4_000_000


@row(
    40,
    "ten times the limit of the process, broker frozen",
    holds="memory flat at the limit; dropped events counted exactly",
    short=1,
    long=60,
    confirms=LIMIT,
    refuses=True,
)
def overflow(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _, policy in zip(
        range(runs), itertools.cycle(("drop-newest", "drop-oldest")), strict=False
    ):
        with rig.trial(
            kind="gunicorn-gthread",
            MAX_EVENTS=LIMIT,
            OVERFLOW=policy,
            HEARTBEAT=15,
            CONFIRM_TIMEOUT=0,
        ) as trial:
            _overflow(rig, trial)
        missing, dropped = len(trial.missing), trial.figures.dropped
        trial.expect(f"{missing} are missing, {dropped} counted", missing == dropped)
        logged = trial.logged_drops
        trial.expect(f"{dropped} are in the log, not {logged}", logged == dropped)
        found.add(trial.figures)
    return found


def _overflow(rig: Rig, trial: Trial) -> None:
    trial.requests(1)
    trial.settle()
    rig.node.freeze()
    enqueue(trial, 2 * LIMIT)
    full = trial.resident_bytes()
    enqueue(trial, (TIMES - 2) * LIMIT)
    trial.hit()
    grown = trial.resident_bytes() - full
    trial.expect(f"memory is flat, not {grown:,} more", grown < FLAT)
    held = trial.stats("in_flight") + trial.stats("retained")
    trial.expect(f"{LIMIT} are held, not {held}", held == LIMIT)
    dropped = trial.stats("dropped")
    trial.expect(f"the rest is dropped, {dropped}", dropped == (TIMES - 1) * LIMIT)
    rig.node.thaw()


def enqueue(trial: Trial, events: int) -> None:
    trial.requests(events // EACH, pause=0, events=EACH, padding=SIZE)
