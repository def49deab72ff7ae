"""The counts and times of a row."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: `CONFIRM_TIMEOUT`, in seconds.
CONFIRM_TIMEOUT = 0.25
#: How much longer the slowest of 100 requests may take under a fault, in seconds.
LONGER = CONFIRM_TIMEOUT + 0.05
#: The most seconds that any request may take.
SLOWEST = CONFIRM_TIMEOUT + 0.5
#: The same while other work may stall the machine: less than two waits, and a stall.
LONGER_WHEN_BUSY, SLOWEST_WHEN_BUSY = 2 * CONFIRM_TIMEOUT, 5.0


@dataclass
class Figures:
    """The sums over all runs of a row."""

    runs: int = 0
    attempts: int = 0
    acknowledged: int = 0
    #: Acknowledged, neither arrived nor on disk, and not reported as dropped.
    lost: int = 0
    #: Acknowledged, and left on disk for the next process.
    kept: int = 0
    #: Events that may be lost: they were in the memory of a killed process, or in a
    #: damaged file.
    may_be_lost: int = 0
    duplicated: int = 0
    recovered: int = 0
    unexpected: int = 0
    #: Duplicates without a mark.
    unmarked: int = 0
    #: According to the apps' own counts; with a database, also what has arrived.
    confirmed: int = 0
    dropped: int = 0
    dead: int = 0
    discarded: int = 0
    balanced: bool = True
    #: How often the fault occurred.
    hits: int = 0
    #: Requests that were not answered 2xx.
    failed: int = 0
    #: Events whose transactions were committed, if the app has a database.
    committed: int = 0
    #: Events that arrived, but are not committed; and those that are, but did not.
    ghosts: int = 0
    zombies: int = 0
    #: Rows whose lease has run out while a process held them, as it has counted.
    lost_leases: int = 0
    #: The most seconds for which a row of the outbox was held by nobody, or by a
    #: process that was gone; and for how many a process holds a row.
    stuck: float = 0.0
    lease: float = 0.0
    #: Seconds that the slowest request took.
    slowest: float = 0.0
    #: Of each run, in seconds: p99 under the fault less p99 while healthy.
    longer: list[float] = field(default_factory=list)
    #: What was measured besides, in words.
    notes: list[str] = field(default_factory=list)
    #: The broken promises, in words.
    broken: list[str] = field(default_factory=list)
    #: Seconds that it took.
    seconds: float = 0.0

    @property
    def median_longer(self) -> float | None:
        """How much longer requests took under the fault, in seconds."""
        return statistics.median(self.longer) if self.longer else None

    def add(self, other: Figures) -> None:
        """Add the figures of another trial of the same row."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if name in ("slowest", "stuck", "lease"):
                value = max(mine, value)
            elif name == "balanced":
                value = mine and value
            else:
                value = mine + value
            setattr(self, name, value)

    def add_books(self, books: Mapping[str, Any], dead: int = 0) -> None:
        """Add the last counts of a process, which had *dead* dead events at the end."""
        self.confirmed += books["confirmed"]
        # What is dead at the end of the process is dropped there, unless it is on disk.
        self.dropped += books["dropped"] - (dead - books["dead"])
        self.dead += dead
        self.discarded += books["discarded"]
        self.lost_leases += books["lost_leases"]
        self.balanced &= is_balanced(books)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"median_longer": self.median_longer}


def is_balanced(books: Mapping[str, Any]) -> bool:
    """Whether each event is in exactly one place."""
    living = ("collected", "in_flight", "retained", "dead")
    ended = ("confirmed", "discarded", "dropped", "outboxed")
    places = sum(books[name] for name in living + ended)
    return bool(books["enqueued"] + books["adopted"] == places)
