"""Delivers the events of dead processes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ....delivery.delivery import Delivery
from ....events import BrokerState, Stats, Target, TargetProblem
from ....messages.wording import plural
from ..folder import Folder
from ..refusals import KnownRefusals
from .changes import unresponsive
from .reading import Report, Unreadable, quarantined, reports

#: Seconds between two progress updates.
_STEP = 0.1
#: Why a file that this process has locked is not finished.
_DAMAGED = (
    "it is damaged: once its intact events are delivered or copied, it is quarantined"
)
#: How many queues are named in a line.
_MOST_NAMED = 5


@dataclass(frozen=True)
class Drained:
    """The result of a flush."""

    delivered: int
    #: Events that no queue gets, which the settings allow.
    unrouted: int
    #: Events that have expired, or that somebody has purged meanwhile.
    dropped: int
    #: Events that still wait: those of dead processes and of unresponsive ones.
    waiting: int
    #: Events of dead processes that are not due yet.
    delayed: int
    #: Dead events of dead processes.
    dead: int
    #: Damaged files that were renamed.
    quarantined: int
    #: Events on disk of running processes, and the number of these processes.
    others: int
    processes: int
    #: Rows of the outbox that other processes hold.
    held: int
    #: The targets that the broker refuses events of these processes for, with reasons.
    refused: dict[Target, str]
    #: What could not be read, or belongs to an unresponsive process.
    unreadable: list[Unreadable]
    #: The queues that the broker refuses events for, or is silent on.
    problems: tuple[TargetProblem, ...]
    #: Why this process has not delivered all that it could read; ``""``: it has.
    reason: str

    @property
    def ended(self) -> int:
        """How many events wait no longer."""
        return self.delivered + self.unrouted + self.dropped + self.dead


#: Of a flush with nothing to do.
NOTHING = Drained(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {}, [], (), "")


def drain(
    delivery: Delivery,
    folder: Folder | None,
    timeout: float,
    on_progress: Callable[[int], object],
) -> Drained:
    """Deliver within *timeout* seconds; call *on_progress* with each increment.

    :param folder: of the spool; ``None``: there is none.
    """
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
    return sum(
        getattr(now, count) - getattr(before, count)
        for count in ("confirmed", "unrouted", "delayed", "dead", "dropped")
    )


def _result(before: Stats, now: Stats, folder: Folder | None) -> Drained:
    files = [] if folder is None else reports(folder)
    alone = [file for file in files if not file.owner.alive]
    others = [f for f in files if f.owner.alive and not f.is_here and _events(f)]
    silent = unresponsive(others)
    stuck = [f for f in others if f.owner.process in silent]
    busy = [f for f in others if f.owner.process not in silent]
    here = now.retained + now.in_flight + now.unadopted + sum(f.waiting for f in alone)
    return Drained(
        delivered=now.confirmed - before.confirmed,
        unrouted=now.unrouted - before.unrouted,
        dropped=now.dropped - before.dropped,
        waiting=here + sum(map(_events, stuck)),
        delayed=now.delayed,
        dead=now.dead + sum(f.dead for f in alone),
        quarantined=now.quarantined - before.quarantined,
        others=sum(map(_events, busy)),
        processes=len({f.owner.process for f in busy}),
        held=0,
        refused=KnownRefusals(f.path for f in busy).reasons,
        unreadable=[
            *(_explain(f, f.problem) for f in files if f.problem),
            *([] if folder is None else quarantined(folder)),
            *(Unreadable(f.path, silent[f.owner.process]) for f in stuck),
        ],
        problems=now.problems,
        reason=why_left(now) if here else "",
    )


def _explain(file: Report, problem: Unreadable) -> Unreadable:
    # The advice in *problem* is to do what this process is just doing.
    return Unreadable(file.path, _DAMAGED) if file.is_here else problem


def _events(file: Report) -> int:
    return file.waiting + file.dead


def why_left(now: Stats) -> str:
    """Why a process with these figures has not delivered everything."""
    if now.broker is not BrokerState.READY:
        return now.broker_error or f"the broker is {now.broker}"
    error = now.spool_error or now.outbox_error
    if error or not now.problems:
        return error or "the timeout expired"
    return named(map(str, now.problems), now.problem_targets)


def named(targets: Iterable[str], count: int) -> str:
    """The first of *count* *targets*, each with its reason."""
    first = [*itertools.islice(targets, _MOST_NAMED)]
    more = count - len(first)
    return "; ".join(first + [f"and {more} more {plural(more, 'queue')}"] * (more > 0))
