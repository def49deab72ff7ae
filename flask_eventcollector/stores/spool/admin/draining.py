"""Delivers, in this process, what dead ones have left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ....delivery.delivery import Delivery
from ....events import BrokerState, Stats
from ..folder import Folder
from .reading import reports

#: Seconds between two looks at how far it is.
_STEP = 0.1


@dataclass(frozen=True)
class Drained:
    """What a flush has done, and what it has left."""

    delivered: int
    #: Those of dead processes that still wait.
    waiting: int
    #: Those of dead processes that are dead.
    dead: int
    #: Files that could not be read as a whole.
    quarantined: int
    #: What living processes have on disk, and how many these are.
    others: int
    processes: int
    #: Why something is left; ``""``: nobody knows.
    reason: str


def drain(
    delivery: Delivery,
    folder: Folder,
    timeout: float,
    watch: Callable[[int], object],
) -> Drained:
    """Deliver within *timeout* seconds; tell *watch*, now and then, how many more."""
    before = delivery.stats()
    flush = threading.Thread(target=_flush, args=(delivery, timeout), daemon=True)
    flush.start()
    seen, is_over = 0, False
    while not is_over:
        flush.join(_STEP)
        is_over = not flush.is_alive()
        now = _ended(before, delivery.stats())
        watch(now - seen)
        seen = now
    return _result(before, delivery.stats(), folder)


def _flush(delivery: Delivery, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    delivery.start()
    if delivery.flush(timeout):
        # In the next look, files that have ended are removed, or set aside.
        delivery.flush(max(0.0, deadline - time.monotonic()))


def _ended(before: Stats, now: Stats) -> int:
    ended = (now.confirmed, now.dead, now.dropped)
    return sum(ended) - before.confirmed - before.dead - before.dropped


def _result(before: Stats, now: Stats, folder: Folder) -> Drained:
    files = reports(folder)
    alone = [file for file in files if not file.owner.alive]
    others = [f for f in files if f.owner.alive and not f.is_here]
    error = now.broker_error or f"the broker is {now.broker}"
    if now.broker is BrokerState.READY:
        error = "the broker refuses it, as the log tells, or the time ran out"
    return Drained(
        delivered=now.confirmed - before.confirmed,
        waiting=now.retained
        + now.in_flight
        + now.unadopted
        + sum(f.waiting for f in alone),
        dead=now.dead + sum(f.dead for f in alone),
        quarantined=now.quarantined - before.quarantined,
        others=sum(f.waiting + f.dead for f in others),
        processes=len({f.owner.process for f in others if f.waiting or f.dead}),
        reason=next((t for f in alone if (t := f.problem)), "")
        or now.spool_error
        or error,
    )
