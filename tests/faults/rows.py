"""The rows of the fault matrix: faults, and promises that must be kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.faults.figures import Figures
from tests.faults.hosts import KINDS
from tests.faults.rig import (
    BASELINE,
    BASELINES,
    DATABASES,
    MODES,
    NAIVE_OUTBOX,
    OUTBOXES,
    Rig,
)
from tests.faults.state import missing_database

Act = Callable[[Rig, int], Figures]

EVERY_MODE = (*MODES, *BASELINES)
#: The modes without an outbox.
PLAIN = ("memory", "spool", BASELINE)
#: The modes with one.
IN_OUTBOX = (*OUTBOXES, NAIVE_OUTBOX)
#: For rows that are about any backlog; what differs between databases is in others.
ANY = (*PLAIN, "outbox-postgresql", "outbox-sqlite", NAIVE_OUTBOX)

#: By number.
ROWS: dict[int, Row] = {}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault."""

    number: int
    fault: str
    #: The promise, in words; the fields below express it in numbers.
    holds: str
    act: Act
    #: The number of runs in tests, and for a report.
    short: int
    long: int
    #: How many events must be confirmed, and how many faults must occur, per run.
    confirms: int
    hits: int = 1
    #: Whether requests must obey the latency rule.
    quick: bool = False
    #: Whether events may arrive twice, if marked.
    twice: bool = True
    #: Whether events may be dead or dropped, if counted.
    refuses: bool = False
    #: Whether requests may be left without an answer, because their worker ended.
    fails: bool = False
    #: Whether events may be discarded, because their requests fail.
    discards: bool = False
    #: The kinds of workers that it runs, unless the rig specifies one.
    kinds: tuple[str, ...] = ()
    #: The modes in which it is run.
    modes: tuple[str, ...] = PLAIN
    #: Why this machine does not permit it; ``None``: it does.
    denied: Callable[[], str | None] = lambda: None

    def missing(self, mode: str) -> str | None:
        """What is not installed; ``None``: nothing is missing."""
        wanted = [KINDS[kind].missing for kind in self.kinds]
        wanted.append(missing_database(DATABASES.get(mode)))
        return next(filter(None, wanted), None)

    def why_not(self, mode: str) -> str | None:
        """Why it can't be run in this mode, here; ``None``: it can."""
        if mode not in self.modes:
            return f"only for the mode {' or '.join(self.modes)}"
        missing = self.missing(mode)
        return f"missing: {missing}" if missing else self.denied()

    def __str__(self) -> str:
        return f"{self.number} {self.fault}"

    def run(self, rig: Rig, runs: int) -> Figures:
        """Inject the fault in *runs* runs; broken promises are in `broken`."""
        rig.restore()
        began = time.monotonic()
        figures = self.act(rig, runs)
        figures.runs, figures.seconds = runs, time.monotonic() - began
        if not rig.is_baseline:
            figures.broken += self._broken(figures)
            if self.quick:
                figures.broken += _broken_by_slow(figures, rig)
        return figures

    def _broken(self, found: Figures) -> Iterator[str]:
        yield from _broken_by_all(found)
        if found.failed and not self.fails:
            yield f"{found.failed} requests failed"
        least = self.confirms * found.runs
        if found.confirmed < least:
            yield f"{found.confirmed} events were confirmed, but must be {least}"
        if found.hits < self.hits * found.runs:
            yield f"the fault occurred only {found.hits} times"
        if not self.twice and found.duplicated:
            yield f"{found.duplicated} events arrived twice"
        if not self.refuses and (found.dropped or found.dead):
            yield f"{found.dropped} events were dropped, {found.dead} are dead"
        # With a database, each request rolls something back.
        if not (self.discards or found.committed) and found.discarded:
            yield f"{found.discarded} events were discarded"


def _broken_by_all(found: Figures) -> Iterator[str]:
    for name in ("unexpected", "unmarked", "ghosts", "zombies"):
        if number := getattr(found, name):
            yield f"{name}: {number}"
    if found.lost > found.may_be_lost:
        yield f"lost: {found.lost}, of which {found.may_be_lost} may be lost"
    if not found.balanced:
        yield "the books do not balance"
    # Others look thrice in a lease, so this leaves a loaded machine some time.
    if found.stuck > 4 * found.lease:
        yield f"a row was stuck for {found.stuck:.1f} s"


def _broken_by_slow(found: Figures, rig: Rig) -> Iterator[str]:
    longer = found.median_longer
    if longer is None:
        yield "nothing was compared"
    elif longer > rig.longer:
        yield f"p99 was {longer:.3f} s longer than while healthy"
    if found.slowest > rig.slowest:
        yield f"the slowest request took {found.slowest:.3f} s"


def row(
    number: int,
    fault: str,
    *,
    holds: str,
    short: int,
    long: int,
    confirms: int,
    hits: int = 1,
    quick: bool = False,
    twice: bool = True,
    refuses: bool = False,
    fails: bool = False,
    discards: bool = False,
    kinds: tuple[str, ...] = (),
    modes: tuple[str, ...] = PLAIN,
    denied: Callable[[], str | None] = lambda: None,
) -> Callable[[Act], Row]:
    """Declare a row; the decorated function injects the fault."""

    def declare(act: Act) -> Row:
        if number in ROWS:
            raise ValueError(f"row {number} is declared twice")
        ROWS[number] = Row(
            number=number,
            fault=fault,
            holds=holds,
            act=act,
            short=short,
            long=long,
            confirms=confirms,
            hits=hits,
            quick=quick,
            twice=twice,
            refuses=refuses,
            fails=fails,
            discards=discards,
            kinds=kinds,
            modes=modes,
            denied=denied,
        )
        return ROWS[number]

    return declare
