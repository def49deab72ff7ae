"""Delivers the events of dead processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ....delivery.delivery import Delivery
from ....events import BrokerState, Stats
from ..folder import Folder
from .reading import reports

#: Seconds between two progress updates.
_STEP = 0.1


@dataclass(frozen=True)
class Drained:
    """The result of a flush."""

    delivered: int
    #: Events of dead processes that are still waiting.
    waiting: int
    #: Dead events of dead processes.
    dead: int
    #: Damaged files that were renamed.
    quarantined: int
    #: Events on disk of running processes, and the number of these processes.
    others: int
    processes: int
    #: Why events are left; ``""``: unknown.
    reason: str


def drain(
    delivery: Delivery,
    folder: Folder,
    timeout: float,
    on_progress: Callable[[int], object],
) -> Drained:
    """Deliver within *timeout* seconds; call *on_progress* with each increment."""
    before = delivery.stats()
    flush = threading.Thread(target=_flush, args=(delivery, timeout), daemon=True)
    flush.start()
    reported, is_over = 0, False
    while not is_over:
        flush.join(_STEP)
        is_over = not flush.is_alive()
        now = _ended(before, delivery.stats())
        on_progress(now - reported)
        reported = now
    return _result(before, delivery.stats(), folder)


def _flush(delivery: Delivery, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    delivery.start()
    if delivery.flush(timeout):
        # The next scan removes or quarantines the files that are finished.
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
        error = "the broker refused the events (see the log), or the timeout expired"
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
