"""What the first page shows: the books, the health, and what waits for each target."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

from ..app_state import AppState
from ..backlog.backlog import Status
from ..backlog.outbox import NO_RELAY
from ..config.settings import choose_spool_name
from ..delivery.broker_status import describe
from ..errors import ConfigurationError
from ..events import BrokerState, Stats, worst_of
from ..monitoring.columns import COLUMNS, RARE, needed_for
from ..monitoring.health import Check, Health, HealthStatus, health_of
from ..monitoring.history.records import Counts, silence_of
from ..monitoring.samples import Sample, Samples, sample
from ..stores.spool.admin.reading import Unreadable
from ..stores.sums import TargetSum, summed
from .chart import Chart, charts
from .places import Places, open_places

#: The most targets that are shown.
MOST_TARGETS = 50
#: The books as tiles, in their order, and those that are left out if they are zero.
_TILES = (
    "enqueued",
    "adopted",
    "confirmed",
    "waiting",
    "dead",
    "delayed",
    "collected",
    "discarded",
    "dropped",
    "unrouted",
    "outboxed",
)
_RARE = RARE | {"collected"}
#: Seconds for which an overview is shown again; longer if it took long to read.
_SHOWN_FOR, _TIMES_AS_LONG = 1.0, 5.0
#: Seconds for which others see the last overview while one is being made.
_PATIENCE = 10.0


#: The checks that count events, and are as bad in all as in the worst process.
_COUNTING = ("broker", "targets", "dead")


_STATES = list(BrokerState)


class WorstCheck(NamedTuple):
    """A part of the health, in the process in which it is worst."""

    name: str
    check: Check
    #: In how many processes it is not in order; 0: it is about none of them.
    processes: int


class Overview(NamedTuple):
    """The state of the app on this machine."""

    app: str
    #: Seconds since 1970.
    at: float
    #: All processes that are known, with their books.
    processes: Sequence[Counts]
    #: The sum over them.
    books: Stats
    checks: Sequence[WorstCheck]
    charts: Sequence[Chart]
    #: The targets with the most events.
    targets: Sequence[TargetSum]
    more_targets: int
    status: Status
    #: What could not be read.
    problems: Sequence[str]
    #: Whether all processes on this machine are known, or this one only.
    is_whole: bool
    #: See :class:`.Places`.
    memory_of: int | None

    @property
    def health(self) -> HealthStatus:
        """The worst of all checks."""
        return worst_of(HealthStatus, (one.check.status for one in self.checks))

    @property
    def tiles(self) -> dict[str, int]:
        """The books by their headings, what is sent or waits for that as one.

        What is enqueued and adopted has the same sum as the others.
        """
        heads = {**COLUMNS, "waiting": "Waiting"}
        values = {**self.books.as_dict(), "waiting": self.waiting}
        shown = [name for name in _TILES if values[name] or name not in _RARE]
        return {heads[name]: values[name] for name in shown}

    @property
    def columns(self) -> dict[str, str]:
        """Of the books of the processes, with their headings."""
        return needed_for(self.processes)

    @property
    def broker(self) -> BrokerState:
        """The worst state if one is in trouble; otherwise the best.

        Some processes may not have needed it yet.
        """
        if self.books.broker.is_trouble:
            return self.books.broker
        return min((one.books.broker for one in self.processes), key=_STATES.index)

    @property
    def waiting(self) -> int:
        """What the processes hold that is handed over, not dead and not delayed."""
        return self.books.in_flight + self.books.retained


class Overviews:
    """Makes an :class:`Overview`, at most one a second, however many ask for it."""

    def __init__(self, state: AppState, samples: Samples) -> None:
        self._state = state
        self._samples = samples
        self._last: tuple[float, Overview] | None = None

    def get(self) -> Overview:
        """What is true now, or was a moment ago. Does not wait for the broker."""
        began = time.monotonic()
        if self._last is not None and began < self._last[0]:
            return self._last[1]
        if self._last is not None:
            # Others get it again meanwhile, lest a slow database be asked by all.
            self._last = (began + _PATIENCE, self._last[1])
        found = self._look()
        took = time.monotonic() - began
        shown_for = max(_SHOWN_FOR, took * _TIMES_AS_LONG)
        self._last = (began + shown_for, found)
        return found

    def _look(self) -> Overview:
        state, now = self._state, time.time()
        delivery = state.delivery_if_used()
        stats = Stats() if delivery is None else delivery.stats()
        processes = self._samples.processes(Counts(os.getpid(), now, stats.as_dict()))
        samples = self._samples.take(processes)
        problem = "" if delivery is None else delivery.threads_problem
        unread = self._samples.problems.items()
        with open_places(state) as places:
            places.problems.extend(Unreadable(path, why) for path, why in unread)
            return _overview(state, now, processes, problem, samples, places)


def _overview(
    state: AppState,
    now: float,
    processes: Sequence[Counts],
    threads_problem: str,
    samples: Sequence[Sample],
    places: Places,
) -> Overview:
    books = reduce(add, (one.books for one in processes))
    health = [
        health_of(
            one.books, state.limits, threads_problem if one.pid == os.getpid() else ""
        )
        for one in processes
    ]
    targets = [*_explained(places, processes, books)]
    status = places.status()
    total = health_of(books, state.limits, "")
    unread = [*dict.fromkeys(map(str, [*places.problems, *status.problems]))]
    return Overview(
        app=choose_spool_name(state.config, state.app),
        at=now,
        processes=processes,
        books=books,
        checks=[
            *_worst(health, total),
            *_silent(processes),
            *_of_app(state, status, unread),
        ],
        charts=charts(samples, sample(now, books)),
        targets=targets[:MOST_TARGETS],
        more_targets=len(targets[MOST_TARGETS:]),
        status=status,
        problems=unread,
        is_whole=state.config.history_dir is not None,
        memory_of=places.memory_of,
    )


def _worst(health: Sequence[Health], total: Health) -> list[WorstCheck]:
    """For each name, the check of the process in which it is worst.

    What counts events is told of all processes together, as the books are.
    """
    order = list(HealthStatus)
    names = dict.fromkeys(name for one in health for name in one.checks)
    by_name: Mapping[str, list[Check]] = {
        name: [one.checks[name] for one in health if name in one.checks]
        for name in names
    }
    return [
        WorstCheck(
            name,
            total.checks[name]
            if name in _COUNTING
            else max(found, key=lambda check: order.index(check.status)),
            sum(check.status is not HealthStatus.OK for check in found),
        )
        for name, found in by_name.items()
    ]


def _silent(processes: Sequence[Counts]) -> Iterator[WorstCheck]:
    """The processes whose counts are no longer true."""
    if found := [*filter(None, map(silence_of, processes))]:
        check = Check(HealthStatus.DEGRADED, "; ".join(found))
        yield WorstCheck("processes", check, len(found))


def _of_app(
    state: AppState, status: Status, unread: Sequence[str]
) -> Iterator[WorstCheck]:
    """What is wrong with the app or its places, whichever process asks."""
    try:
        state.check_broker()
    except ConfigurationError as error:
        # The next event is refused.
        yield WorstCheck("settings", Check(HealthStatus.FAILING, str(error)), 0)
    if status.lacks_relay:
        yield WorstCheck("relay", Check(HealthStatus.DEGRADED, NO_RELAY), 0)
    if status.leaves_alone:
        what = "Nobody sends some events: see 'flask events status'"
        yield WorstCheck("left alone", Check(HealthStatus.DEGRADED, what), 0)
    if unread:
        what = "Not everything can be read: see below"
        yield WorstCheck("places", Check(HealthStatus.DEGRADED, what), 0)


def _explained(
    places: Places, processes: Sequence[Counts], books: Stats
) -> Iterator[TargetSum]:
    """What waits for each target, with a reason for each that has none of its own."""
    sums = places.sums_by_target()
    others = [*_of_others(processes)]
    if places.backlog is None:
        # Other processes say only of targets with a problem what waits there.
        sums = summed([*sums, *others])
    refused = {one.target: one for one in others}
    for one in sums:
        if one.reason or not one.waiting:
            yield one
        elif books.broker.is_trouble:
            yield one._replace(reason=describe(books.broker, books.broker_error))
        else:
            yield one.explained_by(refused.get(one.target, one))


def _of_others(processes: Sequence[Counts]) -> Iterator[TargetSum]:
    for process in processes:
        if process.pid != os.getpid():
            yield from map(TargetSum.of, process.books.problems)
